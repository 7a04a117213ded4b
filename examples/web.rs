//! `web DIRECTORY ADDRESS`: serves the files of a directory over HTTP.
//!
//! The program of `web.nomad.hcl`, and the web server from which the examples fetch their artifacts. It does what an
//! example needs and no more: GET, one request per connection, a thread each.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (directory, address) = match args.as_slice() {
        [directory, address] => (directory, address),
        _ => {
            eprintln!("usage: web DIRECTORY ADDRESS");
            return ExitCode::from(2);
        }
    };
    let listener = match TcpListener::bind(address) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("web: listen on {address}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "serving {directory} on http://{address}/");
    for connection in listener.incoming().flatten() {
        let directory = PathBuf::from(directory);
        std::thread::spawn(move || {
            if let Err(error) = answer(&directory, connection) {
                eprintln!("web: {error}");
            }
        });
    }
    ExitCode::SUCCESS
}

fn answer(directory: &Path, mut connection: TcpStream) -> std::io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new(connection.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (status, body) = match (method, file(directory, path)) {
        ("GET" | "HEAD", Some(path)) => match std::fs::read(path) {
            Ok(body) => ("200 OK", body),
            Err(_) => ("404 Not Found", b"there is no such file\n".to_vec()),
        },
        ("GET" | "HEAD", None) => ("404 Not Found", b"there is no such file\n".to_vec()),
        _ => ("405 Method Not Allowed", b"only GET\n".to_vec()),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    connection.write_all(head.as_bytes())?;
    if method != "HEAD" {
        connection.write_all(&body)?;
    }
    let _ = writeln!(std::io::stdout(), "{method} {path} {status}");
    Ok(())
}

/// The file that a request's path names, never outside the directory.
fn file(directory: &Path, path: &str) -> Option<PathBuf> {
    let path = path.split('?').next()?.trim_start_matches('/');
    let path = Path::new(if path.is_empty() { "index.html" } else { path });
    path.components().all(|part| matches!(part, Component::Normal(_))).then(|| directory.join(path))
}
