//! How the driver and its commands say what is wrong.
#![forbid(unsafe_code)]

mod nearest;

use std::error::Error;

pub use self::nearest::nearest;

/// An error and its causes in one line, for example `start task "web": connect to systemd: Permission denied`.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    with_causes(error).replace('\n', " ")
}

/// An error and its causes, in as many lines as they have: those about a job file show the place.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    let mut whole = String::new();
    for text in causes.map(ToString::to_string) {
        // People do not need the number in the kernel's message.
        let words = text.rsplit_once(" (os error ");
        let text =
            words.filter(|(_, number)| number.ends_with(')')).map_or(text.as_str(), |(words, _)| words);
        // Some libraries repeat a cause in their own message.
        if !whole.ends_with(text) {
            if !whole.is_empty() {
                whole.push_str(": ");
            }
            whole.push_str(text);
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message, and what caused it.
    #[derive(Debug)]
    struct Said(&'static str, Option<Box<Said>>);

    impl std::fmt::Display for Said {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Said {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(self.1.as_deref()?)
        }
    }

    #[test]
    fn each_cause_is_said_once_and_without_the_number_of_the_kernel() {
        let cause = Said("No such file or directory (os error 2)", None);
        let error = Said("open it: No such file or directory", Some(Box::new(cause)));
        let error = Said("the job\n  at line 3", Some(Box::new(error)));
        let whole = "the job\n  at line 3: open it: No such file or directory";
        assert_eq!(with_causes(&error), whole);
        assert_eq!(chain(&error), whole.replace('\n', " "));
    }
}
