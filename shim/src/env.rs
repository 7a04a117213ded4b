//! Variables for the guest. The other grants are in the crate `shim-interface`, which the driver uses too.

/// A variable for the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Var {
    /// The name, not empty and without `=`, for example `RUST_LOG`.
    pub name: String,
    /// The value, which may be empty, span lines, and contain `=`.
    pub value: String,
}

impl Var {
    /// Reads `NAME=VALUE`, or `NAME` for the variable of this name in our own environment.
    ///
    /// # Errors
    /// When the name is empty, or there is no such variable.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => (text, inherited(text)?),
        };
        if name.is_empty() {
            return Err("a variable's name is neither empty nor contains `=`; write NAME=VALUE".to_owned());
        }
        Ok(Self { name: name.to_owned(), value })
    }
}

fn inherited(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|_| {
        format!("`{name}` is not in the environment of wasm-shim, or not in UTF-8; write {name}=VALUE")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::holds_for;
    use proptest::prelude::*;
    use shim_interface::{AddressRule, Directory};

    #[test]
    fn variables_keep_their_value_exactly() {
        let var = |name: &str, value: &str| Var { name: name.into(), value: value.into() };
        assert_eq!(Var::parse("A=").unwrap(), var("A", ""));
        assert_eq!(Var::parse("A=b=\"c\"\nd").unwrap(), var("A", "b=\"c\"\nd"));
        assert!(Var::parse("=A=b").is_err());
        assert!(Var::parse("").is_err());
        assert!(Var::parse("WASM_SHIM_TEST_SURELY_UNSET").is_err());
    }

    /// Grants that are only just valid, and texts that are only just invalid.
    fn nearly(pattern: &'static str) -> impl Strategy<Value = String> {
        prop_oneof![pattern, any::<String>()]
    }

    #[test]
    fn fuzz_a_directory_is_the_one_that_is_written_and_is_not_writable_by_mistake() {
        holds_for(&nearly("(/|a|b|::|:|ro|rw|RO| |\\.\\.|\n|é){0,12}"), |text| {
            let Ok(dir) = Directory::parse(&text) else { return Ok(()) };
            prop_assert_eq!(Directory::parse(&dir.to_string()), Ok(dir.clone()), "{}", dir);
            // An independent way to read it: words between colons.
            let (host, rest) = text.split_once("::").unwrap_or((&text, &text));
            prop_assert_eq!(&dir.host, host);
            prop_assert!(rest.starts_with(&dir.guest), "{dir:?}");
            let word = &rest[dir.guest.len()..];
            prop_assert!(["", ":ro", ":rw"].contains(&word), "{dir:?}");
            prop_assert_eq!(dir.writable, word != ":ro");
            prop_assert!(!(text.contains("::") && text.ends_with(":ro") && dir.writable), "{dir:?}");
            // A name contains a colon only if the mode after the last colon allows it.
            prop_assert!(!dir.guest.contains(':') || word == ":rw", "{dir:?}");
            Ok(())
        });
    }

    #[test]
    fn fuzz_a_variable_is_the_text_before_the_first_equals_sign() {
        holds_for(&nearly("(A|=|b|\n|\\x00|é){0,8}=(A|=|b|\n|\\x00|é){0,8}"), |text| {
            let Ok(var) = Var::parse(&text) else { return Ok(()) };
            prop_assert!(!var.name.is_empty() && !var.name.contains('='));
            if text.contains('=') {
                prop_assert_eq!([var.name, var.value].join("="), text);
            }
            Ok(())
        });
    }

    #[test]
    fn fuzz_whatever_is_a_rule_means_the_same_when_it_is_printed() {
        let part = "((tcp|udp|sctp|TCP|):)?(\\*|\\[?[0-9a-f:.]{0,12}\\]?|[0-9]{1,3}(\\.[0-9]{1,3}){3}|\\[::1\\])\
                    (/[0-9+-]{0,4})?(:(\\*|[0-9+ -]{0,12}))?";
        holds_for(&nearly(part), |text| {
            let Ok(rule) = AddressRule::parse(&text) else { return Ok(()) };
            prop_assert_eq!(AddressRule::parse(&rule.to_string()), Ok(rule.clone()), "{}", rule);
            prop_assert!(!text.contains(['+', ' ']), "numbers are digits alone");
            Ok(())
        });
    }
}
