//! Words that stand for numbers of the kernel.

use super::grammar::{LIST, Parsed, Split, integer, within, words};

/// Words with the numbers that they stand for.
pub(super) type Names = [(&'static str, i32)];

/// I/O scheduling classes.
pub(super) const IO_CLASSES: &Names = &[("none", 0), ("realtime", 1), ("best-effort", 2), ("idle", 3)];
/// CPU schedulers.
pub(super) const SCHEDULERS: &Names = &[("other", 0), ("fifo", 1), ("rr", 2), ("batch", 3), ("idle", 5)];
/// Levels of syslog.
pub(super) const LEVELS: &Names = &[
    ("emerg", 0),
    ("alert", 1),
    ("crit", 2),
    ("err", 3),
    ("warning", 4),
    ("notice", 5),
    ("info", 6),
    ("debug", 7),
];
/// Facilities of syslog.
#[rustfmt::skip]
pub(super) const FACILITIES: &Names = &[
    ("kern", 0), ("user", 1), ("mail", 2), ("daemon", 3), ("auth", 4), ("syslog", 5), ("lpr", 6), ("news", 7),
    ("uucp", 8), ("cron", 9), ("authpriv", 10), ("ftp", 11), ("local0", 16), ("local1", 17), ("local2", 18),
    ("local3", 19), ("local4", 20), ("local5", 21), ("local6", 22), ("local7", 23),
];
/// Policies for memory on a machine of several NUMA nodes.
pub(super) const NUMA_POLICIES: &Names =
    &[("default", 0), ("preferred", 1), ("bind", 2), ("interleave", 3), ("local", 4)];
/// Secure bits.
pub(super) const SECURE_BITS: &Names = &[
    ("noroot", 1),
    ("noroot-locked", 1 << 1),
    ("no-setuid-fixup", 1 << 2),
    ("no-setuid-fixup-locked", 1 << 3),
    ("keep-caps", 1 << 4),
    ("keep-caps-locked", 1 << 5),
];
/// Propagation of mounts.
pub(super) const PROPAGATIONS: &Names = &[("shared", 1 << 20), ("slave", 1 << 19), ("private", 1 << 18)];
/// Namespaces, by their names in /proc.
pub(super) const NAMESPACES: &Names = &[
    ("cgroup", 0x0200_0000),
    ("ipc", 0x0800_0000),
    ("net", 0x4000_0000),
    ("mnt", 0x0002_0000),
    ("pid", 0x2000_0000),
    ("user", 0x1000_0000),
    ("uts", 0x0400_0000),
    ("time", 0x0000_0080),
];
/// The parts of a core dump.
const DUMPED: &Names = &[
    ("private-anonymous", 1),
    ("shared-anonymous", 1 << 1),
    ("private-file-backed", 1 << 2),
    ("shared-file-backed", 1 << 3),
    ("elf-headers", 1 << 4),
    ("private-huge", 1 << 5),
    ("shared-huge", 1 << 6),
    ("private-dax", 1 << 7),
    ("shared-dax", 1 << 8),
    ("default", 0x33),
];
/// Signals without the prefix `SIG` (signal(7); the numbers of all architectures that Nomad is built for).
#[rustfmt::skip]
pub(crate) const SIGNALS: &Names = &[
    ("HUP", 1), ("INT", 2), ("QUIT", 3), ("ILL", 4), ("TRAP", 5), ("ABRT", 6), ("BUS", 7), ("FPE", 8), ("KILL", 9),
    ("USR1", 10), ("SEGV", 11), ("USR2", 12), ("PIPE", 13), ("ALRM", 14), ("TERM", 15), ("STKFLT", 16), ("CHLD", 17),
    ("CONT", 18), ("STOP", 19), ("TSTP", 20), ("TTIN", 21), ("TTOU", 22), ("URG", 23), ("XCPU", 24), ("XFSZ", 25),
    ("VTALRM", 26), ("PROF", 27), ("WINCH", 28), ("IO", 29), ("PWR", 30), ("SYS", 31),
];
const FIRST_REAL_TIME: i32 = 34;
const LAST_SIGNAL: i32 = 64;
/// Exit codes that have a name: those of C, of LSB, of BSD, and systemd's own.
#[rustfmt::skip]
const EXIT_CODES: &Names = &[
    ("SUCCESS", 0), ("FAILURE", 1), ("INVALIDARGUMENT", 2), ("NOTIMPLEMENTED", 3), ("NOPERMISSION", 4),
    ("NOTINSTALLED", 5), ("NOTCONFIGURED", 6), ("NOTRUNNING", 7), ("USAGE", 64), ("DATAERR", 65), ("NOINPUT", 66),
    ("NOUSER", 67), ("NOHOST", 68), ("UNAVAILABLE", 69), ("SOFTWARE", 70), ("OSERR", 71), ("OSFILE", 72),
    ("CANTCREAT", 73), ("IOERR", 74), ("TEMPFAIL", 75), ("PROTOCOL", 76), ("NOPERM", 77), ("CONFIG", 78),
    ("CHDIR", 200), ("NICE", 201), ("FDS", 202), ("EXEC", 203), ("MEMORY", 204), ("LIMITS", 205),
    ("OOM_ADJUST", 206), ("SIGNAL_MASK", 207), ("STDIN", 208), ("STDOUT", 209), ("CHROOT", 210), ("IOPRIO", 211),
    ("TIMERSLACK", 212), ("SECUREBITS", 213), ("SETSCHEDULER", 214), ("CPUAFFINITY", 215), ("GROUP", 216),
    ("USER", 217), ("CAPABILITIES", 218), ("CGROUP", 219), ("SETSID", 220), ("CONFIRM", 221), ("STDERR", 222),
    ("PAM", 224), ("NETWORK", 225), ("NAMESPACE", 226), ("NO_NEW_PRIVILEGES", 227), ("SECCOMP", 228),
    ("SELINUX_CONTEXT", 229), ("PERSONALITY", 230), ("APPARMOR", 231), ("ADDRESS_FAMILIES", 232),
    ("RUNTIME_DIRECTORY", 233), ("CHOWN", 235), ("SMACK_PROCESS_LABEL", 236), ("KEYRING", 237),
    ("STATE_DIRECTORY", 238), ("CACHE_DIRECTORY", 239), ("LOGS_DIRECTORY", 240), ("CONFIGURATION_DIRECTORY", 241),
    ("NUMA_POLICY", 242), ("CREDENTIALS", 243), ("BPF", 245), ("EXCEPTION", 255),
];
/// Capabilities in the order of their numbers, without the prefix `CAP_`.
#[rustfmt::skip]
pub(super) const CAPABILITIES: [&str; 41] = [
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
];
/// Architectures of system calls (systemd.exec(5), `SystemCallArchitectures=`).
#[rustfmt::skip]
pub(super) const ARCHITECTURES: &[&str] = &[
    "native", "x86", "x86-64", "x32", "arc-be", "arc-le", "arm", "arm64", "loongarch64", "m68k", "mips", "mips64",
    "mips64-n32", "mips-le", "mips64-le", "mips64-le-n32", "parisc", "parisc64", "ppc", "ppc64", "ppc64-le", "riscv64",
    "s390", "s390x", "sh",
];
/// Address families (socket(2), address_families(7)), without the prefix `AF_`.
#[rustfmt::skip]
const ADDRESS_FAMILIES: &[&str] = &[
    "UNSPEC", "UNIX", "LOCAL", "INET", "AX25", "IPX", "APPLETALK", "NETROM", "BRIDGE", "ATMPVC", "X25", "INET6", "ROSE",
    "DECnet", "NETBEUI", "SECURITY", "KEY", "NETLINK", "ROUTE", "PACKET", "ASH", "ECONET", "ATMSVC", "RDS", "SNA",
    "IRDA", "PPPOX", "WANPIPE", "LLC", "IB", "MPLS", "CAN", "TIPC", "BLUETOOTH", "IUCV", "RXRPC", "ISDN", "PHONET",
    "IEEE802154", "CAIF", "ALG", "NFC", "VSOCK", "KCM", "QIPCRTR", "SMC", "XDP", "MCTP",
];

/// The word for a list of address families that allows none.
pub(super) const NO_FAMILY: &str = "none";

/// Is this an address family?
pub(super) fn is_address_family(word: &str) -> bool {
    word.strip_prefix("AF_").is_some_and(|name| ADDRESS_FAMILIES.contains(&name))
}

/// systemd's number for "kill the process" in place of an errno.
pub(super) const KILL: i32 = i32::MAX - 1;

macro_rules! errnos {
    ($($name:ident)*) => { &[$((stringify!($name), libc::$name)),*] };
}
/// Error numbers.
#[rustfmt::skip]
const ERRNOS: &Names = errnos! {
    EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK EBUSY EEXIST
    EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE
    EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ELOOP EWOULDBLOCK ENOMSG EIDRM ECHRNG EL2NSYNC EL3HLT EL3RST ELNRNG
    EUNATCH ENOCSI EL2HLT EBADE EBADR EXFULL ENOANO EBADRQC EBADSLT EDEADLOCK EBFONT ENOSTR ENODATA ETIME ENOSR ENONET
    ENOPKG EREMOTE ENOLINK EADV ESRMNT ECOMM EPROTO EMULTIHOP EDOTDOT EBADMSG EOVERFLOW ENOTUNIQ EBADFD EREMCHG ELIBACC
    ELIBBAD ELIBSCN ELIBMAX ELIBEXEC EILSEQ ERESTART ESTRPIPE EUSERS ENOTSOCK EDESTADDRREQ EMSGSIZE EPROTOTYPE
    ENOPROTOOPT EPROTONOSUPPORT ESOCKTNOSUPPORT EOPNOTSUPP ENOTSUP EPFNOSUPPORT EAFNOSUPPORT EADDRINUSE EADDRNOTAVAIL
    ENETDOWN ENETUNREACH ENETRESET ECONNABORTED ECONNRESET ENOBUFS EISCONN ENOTCONN ESHUTDOWN ETOOMANYREFS ETIMEDOUT
    ECONNREFUSED EHOSTDOWN EHOSTUNREACH EALREADY EINPROGRESS ESTALE EUCLEAN ENOTNAM ENAVAIL EISNAM EREMOTEIO EDQUOT
    ENOMEDIUM EMEDIUMTYPE ECANCELED ENOKEY EKEYEXPIRED EKEYREVOKED EKEYREJECTED EOWNERDEAD ENOTRECOVERABLE ERFKILL
    EHWPOISON
};

/// The number of the word `text` in `names`.
pub(super) fn number(text: &str, names: &Names) -> Parsed<i32> {
    find(text, names).ok_or_else(|| format!("it is none of {}", listed(names)))
}

/// The number of the word `text` in `names`, or the number itself up to `last`.
pub(super) fn number_or_name(text: &str, names: &Names, last: i32) -> Parsed<i32> {
    find(text, names)
        .or_else(|| within(text, 0..=last).ok())
        .ok_or_else(|| format!("it is none of {}", listed(names)))
}

/// All words of `text` that stand for bits; `apart` splits them.
pub(super) fn bits(text: &str, names: &Names, apart: Split) -> Parsed<i32> {
    let bit =
        |word: &String| find(word, names).ok_or_else(|| format!("`{word}` is none of {}", listed(names)));
    words(text, apart)?.iter().try_fold(0, |sum, word| Ok(sum | bit(word)?))
}

/// The words of `names` for the bits that are set in `mask`.
pub(super) fn named(mask: u64, names: &Names) -> String {
    let set = names.iter().filter(|(_, bit)| u64::try_from(*bit).is_ok_and(|bit| mask & bit == bit));
    set.map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
}

pub(super) fn find(text: &str, names: &Names) -> Option<i32> {
    names.iter().find(|(name, _)| *name == text).map(|(_, number)| *number)
}

fn listed(names: &Names) -> String {
    names.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// A signal by its name, with or without `SIG`, or by its number.
pub(super) fn signal(text: &str) -> Parsed<i32> {
    let wrong = || format!("`{text}` is not a signal such as `SIGTERM`");
    if let Ok(signal) = integer::<i32>(text) {
        return Some(signal).filter(|signal| (1..=LAST_SIGNAL).contains(signal)).ok_or_else(wrong);
    }
    let name = text.strip_prefix("SIG").unwrap_or(text);
    // `RTMIN+1` and `RTMAX-1`: the sign belongs to the number.
    let real_time = |word: &str, sign: char, from: i32| {
        let offset = name.strip_prefix(word)?;
        let offset = match offset.strip_prefix(sign) {
            Some(_) => within(offset, -LAST_SIGNAL..=LAST_SIGNAL).ok()?,
            None if offset.is_empty() => 0,
            None => return None,
        };
        Some(from + offset).filter(|signal| (FIRST_REAL_TIME..=LAST_SIGNAL).contains(signal))
    };
    find(name, SIGNALS)
        .or_else(|| real_time("RTMIN", '+', FIRST_REAL_TIME))
        .or_else(|| real_time("RTMAX", '-', LAST_SIGNAL))
        .ok_or_else(wrong)
}

/// An error number by name or number, or `kill`.
pub(super) fn errno(text: &str) -> Parsed<i32> {
    if text == "kill" {
        return Ok(KILL);
    }
    find(&text.to_ascii_uppercase(), ERRNOS)
        .or_else(|| within(text, 0..=4095).ok())
        .ok_or_else(|| format!("`{text}` is neither `kill` nor an error such as `EPERM`"))
}

/// How a program ended: exit codes, and signals.
pub(super) fn exit_status(text: &str) -> Parsed<(Vec<i32>, Vec<i32>)> {
    let (mut codes, mut signals) = (Vec::new(), Vec::new());
    for word in words(text, LIST)? {
        // A number is a code.
        if let Some(code) = find(&word, EXIT_CODES).or_else(|| within(&word, 0..=255).ok()) {
            codes.push(code);
        } else {
            let wrong = |_| format!("`{word}` is neither an exit code nor a signal");
            signals.push(signal(&word).map_err(wrong)?);
        }
    }
    Ok((codes, signals))
}

/// systemd's name for a step of setting up a process, by the exit code of a process that failed there, for example
/// "NAMESPACE" for 226 (systemd.exec(5), "Process Exit Codes").
pub(crate) fn step(code: i32) -> Option<&'static str> {
    let is_it = |(_, known): &&(&'static str, i32)| *known == code && (200..255).contains(&code);
    EXIT_CODES.iter().find(is_it).map(|(name, _)| *name)
}

/// The parts of a process that a core dump contains: words, or bits in hexadecimal.
pub(super) fn dumped(text: &str) -> Parsed<u64> {
    let mut mask = 0;
    for word in words(text, Split { quotes: false, ..LIST })? {
        let digits = || {
            let digits = word.trim_start_matches("0x");
            u64::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))
        };
        mask |= match find(&word, DUMPED) {
            Some(bit) => u64::try_from(bit).unwrap_or_default(),
            // The kernel accepts 32 bits.
            None if word == "all" => u32::MAX.into(),
            None => digits().ok_or_else(|| format!("`{word}` is not a part of a core dump"))?,
        };
    }
    Ok(mask)
}

/// The bit mask of the capabilities in `words`: names with or without `CAP_`, in any case.
///
/// The error names the first word that is not a capability.
pub fn capability_mask<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<u64, String> {
    words.into_iter().try_fold(0, |mask, word| {
        let upper = word.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        match CAPABILITIES.iter().position(|known| *known == name) {
            Some(number) => Ok(mask | 1 << number),
            None => Err(format!("`{word}` is not a capability such as `CAP_NET_BIND_SERVICE`")),
        }
    })
}

/// The capabilities of `mask` by name, all that are known if all are set.
pub fn capability_names(mask: u64) -> String {
    let set = CAPABILITIES.iter().enumerate().filter(|(number, _)| mask & 1 << number != 0);
    set.map(|(_, name)| format!("CAP_{name}")).collect::<Vec<_>>().join(" ")
}

/// Parses a set of capabilities.
pub(super) fn capabilities(text: &str) -> Parsed<u64> {
    let (inverted, text) = text.strip_prefix('~').map_or((false, text), |rest| (true, rest));
    let words = words(text, LIST)?;
    // A number is one capability, for capabilities that are newer than the driver.
    let mask = words.iter().try_fold(0_u64, |mask, word| match within::<u32>(word, 0..=62) {
        Ok(number) => Ok::<_, String>(mask | 1 << number),
        Err(_) => Ok(mask | capability_mask([word.as_str()])?),
    })?;
    Ok(if inverted { !mask } else { mask })
}
