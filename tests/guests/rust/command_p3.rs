//! A command for WASI 0.3 that does what its first argument requests, with the interfaces of 0.3 only.

use wasip3::cli::{environment, exit, stdin, stdout};
use wasip3::clocks::monotonic_clock;
use wasip3::filesystem::preopens;
use wasip3::filesystem::types::{Descriptor, DescriptorFlags, ErrorCode, OpenFlags, PathFlags};
use wasip3::{spawn_local, wit_stream};

struct Command;

wasip3::cli::command::export!(Command);

impl wasip3::exports::cli::run::Guest for Command {
    async fn run() -> Result<(), ()> {
        let args: Vec<String> = environment::get_arguments().into_iter().skip(1).collect();
        let arguments: Vec<&str> = args.iter().map(String::as_str).collect();
        match arguments[..] {
            ["args", ref rest @ ..] => print([rest, &[""]].concat().join("\n")).await,
            ["env"] => {
                let variables = environment::get_environment();
                let lines: Vec<_> =
                    variables.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
                print(lines.concat()).await
            }
            ["stdin"] => {
                let (text, end) = stdin::read_via_stream();
                let text = text.collect().await;
                end.await.map_err(drop)?;
                print(String::from_utf8_lossy(&text).to_uppercase()).await
            }
            ["write", file, text] => write(file, text).await.map_err(drop),
            ["read", file] => print(read(file).await.map_err(drop)?).await,
            ["exit", code] => {
                exit::exit_with_code(code.parse().map_err(drop)?);
                Ok(())
            }
            ["panic", text] => panic!("{text}"),
            ["flood", bytes] => {
                let parts = bytes.parse::<usize>().map_err(drop)? / 65536;
                let (mut writer, reader) = wit_stream::new();
                let end = stdout::write_via_stream(reader);
                spawn_local(async move {
                    for _ in 0..parts {
                        if !writer.write_all(vec![b'~'; 65536]).await.is_empty() {
                            break;
                        }
                    }
                });
                end.await.map_err(drop)
            }
            ["open", file] => {
                for _ in 0..2 {
                    let mut files = Vec::new();
                    while let Ok(file) = open(file, OpenFlags::empty(), DescriptorFlags::READ).await {
                        files.push(file);
                    }
                    print(format!("{}\n", files.len())).await?;
                }
                Ok(())
            }
            ["wait", milliseconds] => {
                let milliseconds: u64 = milliseconds.parse().map_err(drop)?;
                monotonic_clock::wait_for(milliseconds * 1_000_000).await;
                Ok(())
            }
            _ => Err(()),
        }
    }
}

async fn print(text: String) -> Result<(), ()> {
    let (mut writer, reader) = wit_stream::new();
    let end = stdout::write_via_stream(reader);
    spawn_local(async move {
        writer.write_all(text.into_bytes()).await;
    });
    end.await.map_err(drop)
}

async fn write(file: &str, text: &str) -> Result<(), ErrorCode> {
    let file = open(file, OpenFlags::CREATE | OpenFlags::TRUNCATE, DescriptorFlags::WRITE).await?;
    let (mut writer, reader) = wit_stream::new();
    let end = file.write_via_stream(reader, 0);
    let text = text.as_bytes().to_vec();
    spawn_local(async move {
        writer.write_all(text).await;
    });
    end.await
}

async fn read(file: &str) -> Result<String, ErrorCode> {
    let file = open(file, OpenFlags::empty(), DescriptorFlags::READ).await?;
    let (text, end) = file.read_via_stream(0);
    let text = text.collect().await;
    end.await?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Opens a file given by its directory and its path there, for example `/data/greeting`.
async fn open(file: &str, how: OpenFlags, mode: DescriptorFlags) -> Result<Descriptor, ErrorCode> {
    for (directory, name) in preopens::get_directories() {
        if let Some(path) = file.strip_prefix(&name).and_then(|rest| rest.strip_prefix('/')) {
            return directory.open_at(PathFlags::SYMLINK_FOLLOW, path.to_owned(), how, mode).await;
        }
    }
    Err(ErrorCode::NoEntry)
}
