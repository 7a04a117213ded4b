//! The lines of a job file that an error is about, as a compiler shows them.

use std::ops::Range;
use std::path::PathBuf;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use hcl::edit::Span;
use hcl::edit::structure::{Block, Body};

use super::{Error, readable};

/// A job file as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JobFile {
    /// The file.
    pub(crate) path: PathBuf,
    /// Its content.
    pub(crate) text: String,
}

impl JobFile {
    /// The lines that this error is about. The parser's own errors show them already.
    pub(crate) fn lines_of(&self, error: &Error) -> Option<String> {
        self.lines(error.span()?)
    }

    /// The lines of an option of a task; `key` is an option, such as `args`, or one in a block, such as `limits.tasks_max`.
    /// Of several blocks of a name, `message` tells which one is meant.
    pub(crate) fn lines_of_option(&self, task: &str, key: &str, message: &str) -> Option<String> {
        let text = readable(&self.text);
        let body = hcl::edit::parser::parse_body(&text).ok()?;
        let config = task_of(&body, task)?.body.get_blocks("config").next()?;
        let wanted = Wanted { text: &text, key, message };
        self.lines(wanted.place_in(&config.body).or_else(|| config.ident.span())?)
    }

    /// The lines of the option that a message of the driver names first, such as `` `limits.cpu_quota`: … ``; `None` if the
    /// task does not write that option.
    pub(crate) fn lines_of_message(&self, task: &str, message: &str) -> Option<String> {
        let key = message.split('`').nth(1)?;
        let text = readable(&self.text);
        let body = hcl::edit::parser::parse_body(&text).ok()?;
        let task = task_of(&body, task)?;
        let wanted = Wanted { text: &text, key, message };
        let of_config = task.body.get_blocks("config").find_map(|config| {
            // `ulimit.nofile` is in a map, which is found by the name of its option.
            let map = key.split('.').next()?;
            wanted.place_in(&config.body).or_else(|| {
                let is_map = |line: &&hcl::edit::structure::Attribute| line.key.as_str() == map;
                config.body.attributes().find(is_map)?.key.span()
            })
        });
        let of_task = || task.body.attributes().find(|line| line.key.as_str() == key)?.key.span();
        self.lines(of_config.or_else(of_task)?)
    }

    fn lines(&self, span: Range<usize>) -> Option<String> {
        let text = readable(&self.text);
        // Annotated bytes that are not of the text would be a panic.
        text.get(span.clone())?;
        let path = self.path.to_string_lossy();
        let snippet =
            Snippet::source(text.as_ref()).path(path.as_ref()).annotation(AnnotationKind::Primary.span(span));
        let report = [Group::with_level(Level::ERROR).element(snippet)];
        Some(Renderer::plain().render(&report))
    }
}

fn task_of<'a>(body: &'a Body, name: &str) -> Option<&'a Block> {
    find(body, &|block| {
        block.ident.as_str() == "task" && block.labels.first().is_some_and(|label| label.as_str() == name)
    })
}

/// An option that a message is about.
struct Wanted<'a> {
    text: &'a str,
    /// The name of the option, behind those of the blocks that it is in.
    key: &'a str,
    message: &'a str,
}

impl Wanted<'_> {
    /// Where the option stands in a body of `config`.
    fn place_in(&self, body: &Body) -> Option<Range<usize>> {
        let (blocks, name) = self.key.rsplit_once('.').unwrap_or(("", self.key));
        let names: Vec<_> = blocks.split('.').filter(|name| !name.is_empty()).collect();
        if let [block] = names[..] {
            let several: Vec<_> = body.get_blocks(block).collect();
            if several.len() > 1 {
                return self.place_in_one_of(&several, name);
            }
        }
        key_below(body, &names, name)
    }

    /// Where the option stands in one of several blocks of a name: in the only one that has the option, or whose value the
    /// message repeats; for an option that is missing, the block without it.
    fn place_in_one_of(&self, blocks: &[&Block], name: &str) -> Option<Range<usize>> {
        let attribute =
            |block: &&Block| block.body.attributes().find(|line| line.key.as_str() == name).cloned();
        if self.message.contains(&format!("`{}` is required", self.key)) {
            return blocks.iter().find(|block| attribute(block).is_none())?.ident.span();
        }
        let written: Vec<_> = blocks.iter().filter_map(attribute).collect();
        let words: Vec<&str> = self.message.split(['`', '"']).skip(1).step_by(2).collect();
        let is_repeated = |line: &&hcl::edit::structure::Attribute| {
            let value = line.value.span().and_then(|span| self.text.get(span)).unwrap_or_default();
            words.iter().any(|word| !word.is_empty() && *word != self.key && value.contains(word))
        };
        let repeated: Vec<_> = written.iter().filter(is_repeated).collect();
        match (&repeated[..], &written[..]) {
            ([one], _) => one.key.span(),
            (_, [one]) => one.key.span(),
            _ => None,
        }
    }
}

/// The first block of which this is true, at whatever depth.
fn find<'a>(body: &'a Body, wanted: &dyn Fn(&Block) -> bool) -> Option<&'a Block> {
    body.blocks().find_map(|block| if wanted(block) { Some(block) } else { find(&block.body, wanted) })
}

/// Where a key stands in blocks of these names, one in the other: in the first that has the key.
fn key_below(body: &Body, blocks: &[&str], name: &str) -> Option<Range<usize>> {
    let Some((block, inner)) = blocks.split_first() else { return key_in(body, name) };
    // Where there is no such block, it is in a map, or in what a `dynamic` block makes.
    let found = body.get_blocks(block).find_map(|found| key_below(&found.body, inner, name));
    found.or_else(|| key_in(body, name))
}

/// Where a key stands in a body, or else in a block of it.
fn key_in(body: &Body, name: &str) -> Option<Range<usize>> {
    let attribute = body.attributes().find(|attribute| attribute.key.as_str() == name);
    let block = body.blocks().find(|block| block.ident.as_str() == name);
    attribute
        .and_then(|attribute| attribute.key.span())
        .or_else(|| block.and_then(|block| block.ident.span()))
        .or_else(|| body.blocks().find_map(|block| key_in(&block.body, name)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;

    const JOB: &str = r#"job "web" {
  group "g" {
    task "t" {
      driver = "systemd"
      config {
        comand = "/bin/true"
        limits {
          task_max = 3
        }
        socket {
          name = "a"
        }
        socket {
          prot = 80
        }
      }
      resources {
        cpus = 5
      }
    }
  }
}
"#;

    fn file() -> JobFile {
        JobFile { path: "web.nomad.hcl".into(), text: JOB.to_owned() }
    }

    #[test]
    fn an_unknown_key_of_nomad_is_underlined() {
        let error = super::super::parse(JOB, &BTreeMap::new(), Path::new("")).unwrap_err();
        let lines = file().lines_of(&error).unwrap();
        assert!(lines.contains("web.nomad.hcl:18:9") && lines.ends_with("^^^^"), "{lines}");
    }

    #[test]
    fn an_option_is_found_in_its_block_and_by_its_name() {
        for (key, place) in [
            ("comand", ":6:9"),
            ("socket.prot", ":14:11"),
            ("limits.task_max", ":8:11"),
            ("task_max", ":8:11"),
            ("x", ":5:7"),
        ] {
            let lines = file().lines_of_option("t", key, "").unwrap();
            assert!(lines.contains(place), "{key}: {lines}");
        }
        assert_eq!(file().lines_of_option("none", "comand", ""), None);
    }

    #[test]
    fn of_several_blocks_the_one_that_the_message_is_about_is_found_or_none() {
        let block = |lines: &str| format!("        credential {{\n{lines}        }}\n");
        let text = JOB.replace(
            "        comand =",
            &format!(
                "{}{}        comand =",
                block("name = \"a\"\n"),
                block("name = \"b/c\"\npath = \"x\"\n")
            ),
        );
        let file = JobFile { path: "web.nomad.hcl".into(), text };
        for (key, message, place) in [
            ("credential.name", "`credential.name`: `b/c` is not a name", Some(":10:1")),
            ("credential.path", "`credential.path` is required", Some(":6:9")),
            ("credential.path", "`credential.path`: a string is required, not a list", Some(":11:1")),
            ("credential.name", "`credential.name`: a string is required, not a list", None),
        ] {
            let lines = file.lines_of_message("t", message);
            let is_right = |place: &str| lines.as_ref().is_some_and(|lines| lines.contains(place));
            assert!(place.map_or(lines.is_none(), is_right), "{message}: {lines:?}");
            let of_config = file.lines_of_option("t", key, message).unwrap();
            assert!(of_config.contains(place.unwrap_or(":5:7")), "{message}: {of_config}");
        }
    }

    #[test]
    fn the_option_that_a_message_of_the_driver_names_is_found() {
        let text = JOB.replace("comand =", "ulimit = { nofile = \"x\" }\n        comand =");
        let file = JobFile { path: "web.nomad.hcl".into(), text };
        for (message, place) in [
            ("`ulimit.nofile`: `x` is not an integer", Some(":6:9")),
            ("option `limits.task_max`: not now", Some(":9:11")),
            ("`driver`: which?", Some(":4:7")),
            ("`user`: this node has no user", None),
            ("busy", None),
            ("a ` alone", None),
        ] {
            let lines = file.lines_of_message("t", message);
            let is_right = |place: &str| lines.as_ref().is_some_and(|lines| lines.contains(place));
            assert!(place.map_or(lines.is_none(), is_right), "{message}: {lines:?}");
        }
    }
}
