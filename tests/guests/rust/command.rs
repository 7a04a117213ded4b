//! A command for WASI 0.1 and 0.2 that does what its first argument requests, with the standard library.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, ToSocketAddrs as _};
use std::time::Duration;
use std::{env, fs, thread};

static FLOOD: [u8; 65536] = [b'~'; 65536];

fn main() -> io::Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = args.iter().map(String::as_str).collect();
    match arguments[..] {
        ["args", ref rest @ ..] => rest.iter().for_each(|arg| println!("{arg}")),
        ["env"] => env::vars().for_each(|(name, value)| println!("{name}={value}")),
        ["stdin"] => {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text)?;
            print!("{}", text.to_uppercase());
        }
        ["write", file, text] => fs::write(file, text)?,
        ["read", file] => print!("{}", fs::read_to_string(file)?),
        ["list", directory] => {
            let entries = fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
            let mut names: Vec<_> = entries.iter().map(fs::DirEntry::file_name).collect();
            names.sort();
            for name in names {
                println!("{}", name.display());
            }
        }
        ["exit", code] => exit(number(code)),
        ["panic", text] => panic!("{text}"),
        ["wait", milliseconds] => thread::sleep(Duration::from_millis(number(milliseconds))),
        // Touches this many bytes of memory.
        ["memory", bytes] => println!("{}", vec![1_u8; number(bytes)].len()),
        // Writes this many bytes of output.
        ["flood", bytes] => {
            for _ in 0..number::<usize>(bytes) / FLOOD.len() {
                io::stdout().write_all(&FLOOD)?;
            }
        }
        // Opens a file until that fails, twice; prints how often it succeeded.
        ["open", file] => {
            for _ in 0..2 {
                let files: Vec<_> = std::iter::from_fn(|| fs::File::open(file).ok()).collect();
                println!("{}", files.len());
            }
        }
        ["connect", address] => {
            let mut answer = String::new();
            TcpStream::connect(address)?.read_to_string(&mut answer)?;
            print!("{answer}");
        }
        // Answers one connection.
        ["listen", address] => {
            let listener = TcpListener::bind(address)?;
            println!("{}", listener.local_addr()?);
            listener.accept()?.0.write_all(b"hello from a guest\n")?;
        }
        ["lookup", name] => (name, 0).to_socket_addrs()?.for_each(|address| println!("{}", address.ip())),
        _ => panic!("no such request: {args:?}"),
    }
    Ok(())
}

#[cfg(target_env = "p1")]
fn exit(code: u8) -> ! {
    std::process::exit(code.into())
}

/// The standard library would turn every code but 0 into 1.
#[cfg(target_env = "p2")]
fn exit(code: u8) -> ! {
    wasip2::cli::exit::exit_with_code(code);
    unreachable!("that does not return")
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("`{text}` is no such number"))
}
