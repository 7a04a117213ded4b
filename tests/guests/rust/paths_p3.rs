//! The same as `paths_p1`, in WASI 0.3.

use std::io::{self, BufRead as _};
use wasip3::clocks::system_clock::Instant;
use wasip3::filesystem::preopens;
use wasip3::filesystem::types::{Descriptor, DescriptorFlags, ErrorCode, NewTimestamp, OpenFlags, PathFlags};
use wasip3::{spawn_local, wit_stream};

struct Paths;

wasip3::cli::command::export!(Paths);

impl wasip3::exports::cli::run::Guest for Paths {
    async fn run() -> Result<(), ()> {
        let dirs: Vec<_> = preopens::get_directories().into_iter().map(|(dir, _)| dir).collect();
        for request in io::stdin().lock().lines() {
            match act(&dirs, &request.map_err(drop)?).await {
                Ok(found) => println!("{}", format!("ok {found}").trim_end()),
                Err(error) => println!("no {error:?}"),
            }
        }
        Ok(())
    }
}

const FOLLOW: PathFlags = PathFlags::SYMLINK_FOLLOW;
const LONG_AGO: NewTimestamp = NewTimestamp::Timestamp(Instant { seconds: 1, nanoseconds: 0 });

async fn act(dirs: &[Descriptor], request: &str) -> Result<String, ErrorCode> {
    let words: Vec<&str> = request.split(' ').collect();
    let dir = |word: &str| &dirs[word.parse::<usize>().expect("the number of a directory")];
    let text = |word: &str| word.to_owned();
    match words[..] {
        ["open", at, how, path] => return open(dir(at), how, path).await,
        ["meddle", at, path] => {
            let mode = DescriptorFlags::READ;
            let file = dir(at).open_at(FOLLOW, text(path), OpenFlags::empty(), mode).await?;
            let changes =
                [write(&file).await, file.set_size(0).await, file.set_times(LONG_AGO, LONG_AGO).await];
            let [first, ..] = &changes;
            changes.iter().find(|change| change.is_ok()).unwrap_or(first).clone()
        }
        ["inside", at, sub, path] => {
            let all = DescriptorFlags::READ | DescriptorFlags::MUTATE_DIRECTORY;
            let sub = dir(at).open_at(PathFlags::empty(), text(sub), OpenFlags::DIRECTORY, all).await?;
            return open(&sub, "wc", path).await;
        }
        ["mkdir", at, path] => dir(at).create_directory_at(text(path)).await,
        ["rmdir", at, path] => dir(at).remove_directory_at(text(path)).await,
        ["unlink", at, path] => dir(at).unlink_file_at(text(path)).await,
        ["readlink", at, path] => return dir(at).readlink_at(text(path)).await,
        ["stat", at, path] => {
            return Ok(format!("{} bytes", dir(at).stat_at(FOLLOW, text(path)).await?.size));
        }
        ["touch", at, path] => dir(at).set_times_at(FOLLOW, text(path), LONG_AGO, LONG_AGO).await,
        ["symlink", at, target, path] => dir(at).symlink_at(text(target), text(path)).await,
        ["link", at, old, to, new] => {
            dir(at).link_at(PathFlags::empty(), text(old), dir(to), text(new)).await
        }
        ["linkto", at, old, to, new] => dir(at).link_at(FOLLOW, text(old), dir(to), text(new)).await,
        ["rename", at, old, to, new] => dir(at).rename_at(text(old), dir(to), text(new)).await,
        _ => panic!("no such request: {request}"),
    }
    .map(|()| String::new())
}

async fn open(dir: &Descriptor, how: &str, path: &str) -> Result<String, ErrorCode> {
    let lookup = if how.contains('n') { PathFlags::empty() } else { FOLLOW };
    let mut create = OpenFlags::empty();
    create.set(OpenFlags::CREATE, how.contains('c'));
    create.set(OpenFlags::TRUNCATE, how.contains('t'));
    create.set(OpenFlags::EXCLUSIVE, how.contains('x'));
    create.set(OpenFlags::DIRECTORY, how.contains('d'));
    let mut mode = DescriptorFlags::empty();
    mode.set(DescriptorFlags::READ, how.contains('r'));
    mode.set(DescriptorFlags::WRITE, how.contains(['w', 't']));
    let file = dir.open_at(lookup, path.to_owned(), create, mode).await?;
    if how.contains('w') {
        write(&file).await?;
    }
    if how.contains('d') {
        let (entries, end) = file.read_directory();
        let names: Vec<_> = entries.collect().await.into_iter().map(|entry| entry.name).collect();
        end.await?;
        Ok(names.join(" "))
    } else if how.contains('r') {
        let (content, end) = file.read_via_stream(0);
        let content = content.collect().await;
        end.await?;
        Ok(content.escape_ascii().to_string())
    } else {
        Ok(String::new())
    }
}

async fn write(file: &Descriptor) -> Result<(), ErrorCode> {
    let (mut writer, reader) = wit_stream::new();
    let end = file.write_via_stream(reader, 0);
    spawn_local(async move {
        writer.write_all(b"overwritten".to_vec()).await;
    });
    end.await
}
