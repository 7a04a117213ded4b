//! Executes the requests from its standard input on directories, as directly as WASI 0.1 allows: no library in between
//! inspects a path first. Each line is a request, each line of its output an answer: `ok` and the result, or `no` and
//! the error. A directory is the number of a preopened one.
//!
//! | request | |
//! | --- | --- |
//! | `open DIR HOW PATH` | HOW is of `r` read, `w` write, `c` create, `t` truncate, `x` exclusive, `d` directory, `n` do not follow; what is written is `overwritten` |
//! | `meddle DIR PATH` | opens for reading, then changes content, length and times |
//! | `inside DIR SUB PATH` | opens the directory SUB with all rights, then creates PATH in it |
//! | `mkdir`, `rmdir`, `unlink`, `readlink`, `stat`, `touch` `DIR PATH` | |
//! | `symlink DIR TARGET PATH` | |
//! | `link DIR OLD DIR NEW`, `linkto ..` | the latter follows OLD |
//! | `rename DIR OLD DIR NEW` | |

use std::io::{self, BufRead as _};
use wasip1::{Ciovec, Errno, Fd, Iovec, LOOKUPFLAGS_SYMLINK_FOLLOW as FOLLOW};

const FIRST_DIRECTORY: Fd = 3;

fn main() -> io::Result<()> {
    for request in io::stdin().lock().lines() {
        match act(&request?) {
            Ok(found) => println!("{}", format!("ok {found}").trim_end()),
            Err(error) => println!("no {}", error.name()),
        }
    }
    Ok(())
}

fn act(request: &str) -> Result<String, Errno> {
    let words: Vec<&str> = request.split(' ').collect();
    let dir = |word: &str| FIRST_DIRECTORY + word.parse::<Fd>().expect("the number of a directory");
    // SAFETY: these functions are called for their purpose; every pointer comes from a slice that outlives its call.
    unsafe {
        match words[..] {
            ["open", at, how, path] => return open(dir(at), how, path),
            ["meddle", at, path] => {
                let file = wasip1::path_open(dir(at), FOLLOW, path, 0, wasip1::RIGHTS_FD_READ, 0, 0)?;
                let changes = [
                    write(file),
                    wasip1::fd_filestat_set_size(file, 0),
                    wasip1::fd_allocate(file, 0, 65536),
                    wasip1::fd_filestat_set_times(file, 1, 1, wasip1::FSTFLAGS_ATIM | wasip1::FSTFLAGS_MTIM),
                ];
                changes.into_iter().find(Result::is_ok).unwrap_or(changes[0])
            }
            ["inside", at, sub, path] => {
                let all = u64::MAX >> 34;
                let sub = wasip1::path_open(dir(at), 0, sub, wasip1::OFLAGS_DIRECTORY, all, all, 0)?;
                return open(sub, "wc", path);
            }
            ["mkdir", at, path] => wasip1::path_create_directory(dir(at), path),
            ["rmdir", at, path] => wasip1::path_remove_directory(dir(at), path),
            ["unlink", at, path] => wasip1::path_unlink_file(dir(at), path),
            ["readlink", at, path] => {
                let mut text = [0; 4096];
                let len = wasip1::path_readlink(dir(at), path, text.as_mut_ptr(), text.len())?;
                return Ok(String::from_utf8_lossy(&text[..len]).into_owned());
            }
            ["stat", at, path] => {
                let stat = wasip1::path_filestat_get(dir(at), FOLLOW, path)?;
                return Ok(format!("{} bytes", stat.size));
            }
            ["touch", at, path] => {
                let both = wasip1::FSTFLAGS_ATIM | wasip1::FSTFLAGS_MTIM;
                wasip1::path_filestat_set_times(dir(at), FOLLOW, path, 1, 1, both)
            }
            ["symlink", at, target, path] => wasip1::path_symlink(target, dir(at), path),
            ["link", at, old, to, new] => wasip1::path_link(dir(at), 0, old, dir(to), new),
            ["linkto", at, old, to, new] => wasip1::path_link(dir(at), FOLLOW, old, dir(to), new),
            ["rename", at, old, to, new] => wasip1::path_rename(dir(at), old, dir(to), new),
            _ => panic!("no such request: {request}"),
        }
        .map(|()| String::new())
    }
}

/// # Safety
/// As [`wasip1::path_open`].
unsafe fn open(dir: Fd, how: &str, path: &str) -> Result<String, Errno> {
    let flag = |letter, flag| if how.contains(letter) { flag } else { 0 };
    let lookup = if how.contains('n') { 0 } else { FOLLOW };
    let create = flag('c', wasip1::OFLAGS_CREAT)
        | flag('t', wasip1::OFLAGS_TRUNC)
        | flag('x', wasip1::OFLAGS_EXCL)
        | flag('d', wasip1::OFLAGS_DIRECTORY);
    let read = if how.contains('d') { wasip1::RIGHTS_FD_READDIR } else { wasip1::RIGHTS_FD_READ };
    let write_too = if how.contains(['w', 't']) { wasip1::RIGHTS_FD_WRITE } else { 0 };
    let rights = write_too | if how.contains('r') { read } else { 0 };
    // SAFETY: as our caller promises.
    unsafe {
        let file = wasip1::path_open(dir, lookup, path, create, rights, 0, 0)?;
        if how.contains('w') {
            write(file)?;
        }
        let mut found = [0; 64];
        let len = if how.contains('d') {
            wasip1::fd_readdir(file, found.as_mut_ptr(), found.len(), 0)?
        } else if how.contains('r') {
            wasip1::fd_pread(file, &[Iovec { buf: found.as_mut_ptr(), buf_len: found.len() }], 0)?
        } else {
            0
        };
        wasip1::fd_close(file)?;
        Ok(found[..len].escape_ascii().to_string())
    }
}

/// # Safety
/// As [`wasip1::fd_pwrite`].
unsafe fn write(file: Fd) -> Result<(), Errno> {
    let text = b"overwritten";
    // SAFETY: as our caller promises.
    unsafe { wasip1::fd_pwrite(file, &[Ciovec { buf: text.as_ptr(), buf_len: text.len() }], 0) }.map(drop)
}
