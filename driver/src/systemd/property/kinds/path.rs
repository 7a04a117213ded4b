//! Paths that are mounted in the task's view.

use super::super::grammar::{LIST, Parsed, Split, Words, quote, words};
use super::{dash, leniently, owned};
use diagnostics::nearest;

/// The flag of a path that is mounted with everything below it.
const RECURSIVE: u64 = 1 << 14;

/// `SOURCE[:TARGET[:OPTION]]…`.
pub(crate) fn binds(text: &str) -> Parsed<Vec<(String, String, bool, u64)>> {
    let part = Split { separators: ": \t\n\r", each: true, ..LIST };
    let mut binds = Vec::new();
    let mut rest = Words::of(text);
    loop {
        rest.skip_space();
        let Some(source) = rest.next(part)? else { return Ok(binds) };
        let (from, optional) = leniently(&source.text);
        if from.is_empty() && !optional && source.ended_by == Some(':') {
            return Err("the source is empty; write SOURCE:TARGET".to_owned());
        }
        let (mut to, mut flags) = (from.clone(), RECURSIVE);
        if source.ended_by == Some(':') {
            let target = rest.next(part)?.ok_or("nothing stands behind the colon")?;
            to = target.text;
            if target.ended_by == Some(':') {
                flags = match rest.next(LIST)?.map(|word| word.text).as_deref() {
                    None | Some("" | "rbind") => RECURSIVE,
                    Some("norbind") => 0,
                    Some(other) => {
                        return Err(format!(
                            "`{other}` is neither `rbind` nor `norbind` (for a read-only mount there is `BindReadOnlyPaths`, option \
                             `bind_read_only_paths`)"
                        ));
                    }
                };
            }
        }
        binds.push((from, to, optional, flags));
    }
}

/// One bind in a unit file.
pub(crate) fn bind_text(source: &str, target: &str, optional: bool, flags: u64) -> String {
    let end = if flags == 0 { ":norbind" } else { "" };
    format!("{}{}:{}{end}", dash(optional), quote(source), quote(target))
}

/// `PATH[:OPTIONS]…`.
pub(crate) fn temporary_file_systems(text: &str) -> Parsed<Vec<(String, String)>> {
    let split = |word: String| owned(word.split_once(':').unwrap_or((&word, "")));
    let mounts: Vec<(String, String)> = words(text, LIST)?.into_iter().map(split).collect();
    let mut named =
        mounts.iter().flat_map(|(_, options)| options.split(',')).filter_map(|option| option.split_once('='));
    if let Some((name, _)) = named.find(|(name, _)| !TMPFS.contains(name)) {
        let meant = match nearest(name, TMPFS) {
            Some(known) => format!("did you mean `{known}`?"),
            None => format!("its options are {}", TMPFS.join(", ")),
        };
        return Err(format!("`{name}` is not an option of a tmpfs (tmpfs(5)); {meant}"));
    }
    // systemd splits the options into words once more: `bi\\nd` is `bind` to systemd.
    if let Some((_, options)) = mounts.iter().find(|(_, options)| options.contains(['\\', '"', '\''])) {
        return Err(format!(
            "`{options}` holds a backslash or a quote, which no option of a tmpfs has (tmpfs(5))"
        ));
    }
    let mut words = mounts.iter().flat_map(|(_, options)| options.split(','));
    if let Some(word) = words.find(|word| OTHER_MOUNTS.contains(word)) {
        return Err(format!("`{word}` is not an option of a tmpfs (tmpfs(5))"));
    }
    let mut words = mounts.iter().flat_map(|(_, options)| options.split(','));
    let is_mode = |text: &&str| u32::from_str_radix(text, 8).is_ok_and(|mode| mode <= 0o7777);
    if let Some(mode) = words.find_map(|option| option.strip_prefix("mode=").filter(|text| !is_mode(text))) {
        return Err(format!("`{mode}` is not a mode of a tmpfs such as `1777` (tmpfs(5))"));
    }
    let sizes = mounts.iter().flat_map(|(_, options)| options.split(','));
    // systemd passes sizes to the kernel unchanged, and the kernel's error names no option.
    let wrong = sizes.filter_map(|option| option.strip_prefix("size=")).find(|size| !is_size_of_tmpfs(size));
    match wrong {
        Some(size) => Err(format!("`{size}` is not a size of a tmpfs such as `64M` or `10%` (tmpfs(5))")),
        None => Ok(mounts),
    }
}

/// Options of a tmpfs that have a value (tmpfs(5); for labels of SELinux and Smack, mount(8)).
const TMPFS: [&str; 20] = [
    "size",
    "nr_blocks",
    "nr_inodes",
    "mode",
    "uid",
    "gid",
    "huge",
    "mpol",
    "casefold",
    "usrquota_block_hardlimit",
    "usrquota_inode_hardlimit",
    "grpquota_block_hardlimit",
    "grpquota_inode_hardlimit",
    "context",
    "fscontext",
    "defcontext",
    "rootcontext",
    "smackfsdef",
    "smackfsroot",
    "smackfstransmute",
];

/// Options without a value that make a mount other than a new tmpfs of the task (mount(8)).
const OTHER_MOUNTS: [&str; 12] = [
    "bind",
    "move",
    "private",
    "rbind",
    "remount",
    "rprivate",
    "rshared",
    "rslave",
    "runbindable",
    "shared",
    "slave",
    "unbindable",
];

/// Does the kernel accept the text as `size=` of a tmpfs: a number with a suffix of its `memparse`, or a share of the
/// memory?
fn is_size_of_tmpfs(text: &str) -> bool {
    let digits = text.strip_suffix(|last: char| "kKmMgGtTpPeE%".contains(last)).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}
