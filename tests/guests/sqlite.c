/* A real program of a megabyte: SQLite fills a table with 100,000 rows, asks for it in three ways, and says what it
   found, on one line. Its argument is the file of the database, or `:memory:`. */
#include "sqlite3.h"
#include <stdio.h>

static sqlite3 *database;

static void say(void) { fprintf(stderr, "sqlite: %s\n", sqlite3_errmsg(database)); }

static int print(void *unused, int columns, char **values, char **names) {
    for (int column = 0; column < columns; column++) printf("%s%c", values[column], column + 1 < columns ? ' ' : '\n');
    return 0;
}

int main(int count, char **arguments) {
    const char *script =
        "PRAGMA journal_mode = DELETE;"
        "CREATE TABLE item (number INTEGER PRIMARY KEY, share INTEGER, name TEXT);"
        "BEGIN;"
        "WITH RECURSIVE counter(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counter WHERE n < 100000)"
        " INSERT INTO item SELECT n, n * 7919 % 1000, 'item ' || n FROM counter;"
        "COMMIT;"
        "CREATE INDEX by_share ON item (share);";
    const char *questions =
        "SELECT count(*), sum(number * share), sum(length(name)),"
        " (SELECT count(*) FROM item WHERE share = 7),"
        " (SELECT name FROM item ORDER BY share DESC, number LIMIT 1) FROM item;"
        "PRAGMA integrity_check;";
    if (count != 2) return 2;
    if (sqlite3_open(arguments[1], &database) || sqlite3_exec(database, script, 0, 0, 0) ||
        sqlite3_exec(database, questions, print, 0, 0) || sqlite3_close(database)) {
        say();
        return 1;
    }
    return 0;
}
