//! Directories that systemd creates for a task and keeps: `StateDirectory=` and the like.
//!
//! systemd gives a directory of that name to whoever requests it, with everything in it, and removes it with the task:
//! the directory of the bus, of another service, of another tenant. So each name begins with the name of the group,
//! which no service and no other group has; the task gets the path in `STATE_DIRECTORY` and the like.

use crate::systemd::{self, Assignment};
use crate::task::config::settings::option_of;
use crate::task::spec::Error;

/// The settings with the name of a group, such as `task-21a0f9822e3b71a399fa8e3fdf`, before each name of a directory.
pub(super) fn of_group(settings: Vec<Assignment>, group: &str) -> Result<Vec<Assignment>, Error> {
    settings
        .into_iter()
        .map(|line| if line.names_kept_directories() { renamed(&line, group) } else { Ok(line) })
        .collect()
}

fn renamed(line: &Assignment, group: &str) -> Result<Assignment, Error> {
    let property = line.name();
    let option = || option_of(property).unwrap_or_else(|| format!("properties.{property}"));
    let refused = |reason: String| Error::refused(&option(), reason);
    let mut words = Vec::new();
    for word in systemd::words(line.text()).map_err(&refused)? {
        // `NAME[:LINK[:ro]]`, and no name contains a colon.
        let mut parts: Vec<String> = word.split(':').map(str::to_owned).collect();
        for part in parts.iter_mut().take(2).filter(|part| !part.is_empty()) {
            if part.contains('/') {
                let names = part.split('/').filter(|name| !["", ".", ".."].contains(name));
                let plain = names.collect::<Vec<_>>().join("-");
                return Err(refused(format!(
                    "{part:?} is in a directory that another task of the group may have, and exchange for a link while systemd \
                     makes this one; name a directory without `/`, such as `{plain}`"
                )));
            }
            *part = format!("{group}-{part}");
        }
        let word = parts.join(":");
        words.push(if word.contains(|c: char| c.is_whitespace() || "\"'\\".contains(c)) {
            systemd::quoted(&word).into_owned()
        } else {
            word
        });
    }
    Assignment::parse(property, &words.join(" "))
        .map_err(|source| Error::Property { option: option(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_and_links_to_them_have_the_name_of_the_group() {
        let text = |property: &str, text: &str| {
            let line = Assignment::parse(property, text).unwrap();
            of_group(vec![line], "task-0")
                .map(|lines| lines[0].text().to_owned())
                .map_err(|error| error.to_string())
        };
        assert_eq!(
            text("StateDirectory", "a b:c:ro d::ro").unwrap(),
            "task-0-a task-0-b:task-0-c:ro task-0-d::ro"
        );
        assert_eq!(text("RuntimeDirectory", "").unwrap(), "");
        assert_eq!(text("LogExtraFields", "a=b").unwrap(), "a=b");
        for wrong in ["a/b", "a:b/c"] {
            let told = text("StateDirectory", wrong).unwrap_err();
            assert!(told.contains("`files.state_directory`") && told.contains("without `/`"), "{told}");
        }
    }
}
