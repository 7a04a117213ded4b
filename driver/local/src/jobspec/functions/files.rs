//! Functions that read files of the machine on which the job file is read. A relative path refers to the directory of
//! the job file.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hcl::Value;
use hcl::eval::FuncArgs;

use super::{Result, exactly, string_of};

/// The size of the largest file that is read, in bytes: far more than an agent accepts as a job.
const LARGEST: u64 = 32 << 20;

pub(super) fn basename(args: FuncArgs) -> Result {
    let [path] = exactly(args)?;
    let path = string_of(&path)?;
    let name = Path::new(&path).file_name().and_then(|name| name.to_str());
    Ok(Value::from(name.unwrap_or(if path.is_empty() { "." } else { &path })))
}

pub(super) fn dirname(args: FuncArgs) -> Result {
    let [path] = exactly(args)?;
    let path = string_of(&path)?;
    let parent = Path::new(&path).parent().and_then(Path::to_str);
    Ok(Value::from(match parent {
        Some("") => ".",
        Some(parent) => parent,
        None if path.is_empty() => ".",
        None => &path,
    }))
}

pub(super) fn file(args: FuncArgs) -> Result {
    let content = read(args)?;
    String::from_utf8(content)
        .map(Value::String)
        .map_err(|_| "it is not UTF-8 text; use `filebase64`".to_owned())
}

pub(super) fn file_base64(args: FuncArgs) -> Result {
    Ok(Value::String(BASE64.encode(read(args)?)))
}

pub(super) fn file_exists(args: FuncArgs) -> Result {
    Ok(Value::Bool(path(args)?.is_file()))
}

fn read(args: FuncArgs) -> std::result::Result<Vec<u8>, String> {
    let path = path(args)?;
    let wrong = |why: String| format!("read {}: {why}", path.display());
    let metadata = fs::metadata(&path).map_err(|error| wrong(error.to_string()))?;
    // A pipe may never reach its end.
    if !metadata.is_file() || metadata.len() > LARGEST {
        return Err(wrong(format!("it is not a file of at most {} MiB", LARGEST >> 20)));
    }
    fs::read(&path).map_err(|error| wrong(error.to_string()))
}

/// The path: the directory of the job file, joined with the function's argument.
fn path(args: FuncArgs) -> std::result::Result<PathBuf, String> {
    let Ok([directory, path]) = exactly(args) else { return Err("one path is required".to_owned()) };
    Ok(Path::new(&string_of(&directory)?).join(string_of(&path)?))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use hcl::{Map, Value};

    use super::super::super::expression::Scope;

    #[test]
    fn files_are_looked_up_beside_the_job_file_and_only_while_it_is_read() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("x.conf"), "a=${b}\n").unwrap();
        fs::write(directory.path().join("bytes"), [0xff]).unwrap();
        let of_job = Scope::of_job(Map::new(), Map::new());
        let call = |text: &str, scope: &Scope| {
            let body = hcl::parse(&format!("x = {text}\n")).unwrap();
            scope.body(&body).map(|mut map| map.swap_remove("x").unwrap()).map_err(|error| error.to_string())
        };
        let scope = of_job.clone().with_files(directory.path());
        for (text, expected) in [
            (r#"file("x.conf")"#, Value::from("a=${b}\n")),
            (r#"filebase64("bytes")"#, Value::from("/w==")),
            (r#"fileexists("x.conf")"#, Value::from(true)),
            (r#"[for name in ["x.conf", "y.conf"] : fileexists(name)]"#, hcl::value!([true, false])),
        ] {
            assert_eq!(call(text, &scope).unwrap(), expected, "{text}");
        }
        for (text, scope, wrong) in [
            (r#"file("y.conf")"#, &scope, "y.conf: No such file"),
            (r#"file("bytes")"#, &scope, "use `filebase64`"),
            (r#"file("/dev/zero")"#, &scope, "not a file of at most 32 MiB"),
            ("file()", &scope, "one path is required"),
            (r#"file("x.conf")"#, &of_job, "`file` is not available"),
        ] {
            let error = call(text, scope).unwrap_err();
            assert!(error.contains(wrong), "{error}");
        }
    }
}
