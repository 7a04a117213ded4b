//! What a property is: its place in the manual, what it needs, how far it reaches, which paths it names, and the kind of
//! its value.

use super::kind::Kind;

/// What is known of one property.
#[derive(Debug, PartialEq)]
pub struct PropertyDef {
    /// As the manual writes it.
    pub name: &'static str,
    /// The first systemd that takes it for a transient unit; 247 stands for that and all before.
    pub since: u32,
    /// The part of the manual that describes it.
    pub group: Group,
    /// The cgroup controller without which it has no effect.
    pub controller: Option<&'static str>,
    /// It needs the kernel's BPF.
    pub bpf: bool,
    /// It can have an effect in the manager of a user.
    pub user_manager: bool,
    /// How far it reaches, or why it is not to be set. Some values reach further: see [`super::Assignment::reach`].
    pub reach: Reach,
    /// Which paths it names.
    pub paths: Paths,
    pub(super) kind: Kind,
}

/// The part of the manual that describes a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// systemd.resource-control(5).
    Resource,
    /// systemd.exec(5): files, names, output.
    Exec,
    /// systemd.exec(5): what a process brings with it, such as limits and priorities.
    Process,
    /// systemd.exec(5): what is taken from a process.
    Sandbox,
    /// systemd.service(5) and systemd.kill(5).
    Service,
    /// systemd.unit(5).
    Unit,
}

/// How far a property reaches, and why: a clause that begins with "it", for the operator who decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It can only take from the task.
    Confining(&'static str),
    /// It reaches beyond the task: to files, users, units or hardware of the host, to what others need, or to what the
    /// driver set. An operator must allow it.
    BeyondTask(&'static str),
    /// It would break what the driver owes to Nomad. The clause says why, or what to write instead.
    Reserved(&'static str),
}

/// Which paths a property names. Everything that is decided about paths is decided by this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paths {
    /// None that a job may say without the operator's word for the property itself.
    None,
    /// Files of the host. Each is checked against `allow_host_paths`, and pinned before systemd hears of it.
    Host {
        /// The field of an element that is the path: 0 where an element is nothing else.
        field: usize,
        /// What systemd does with it.
        role: Role,
    },
    /// Paths as the task sees them, each of which systemd mounts over itself.
    View,
    /// Directories that systemd makes below this one of the host, such as `/var/lib`, and keeps for the task.
    Kept(&'static str),
}

/// What systemd does with a file or directory of the host that a property names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It is seen under another path.
    Bind,
    /// It is seen under another path, and not written.
    BindReadOnly,
    /// The directory is the task's root.
    RootDirectory,
    /// The image is the task's root.
    RootImage,
    /// It belongs to an image: its hashes, or their signature.
    Verity,
    /// The image is mounted at a path.
    MountImage,
    /// The image is laid over the root.
    ExtensionImage,
    /// The directory is laid over the root.
    ExtensionDirectory,
    /// Its content is a credential.
    Credential,
    /// It is opened, and the task gets the descriptor.
    OpenFile,
}

impl Role {
    /// Is it the whole root of the task?
    pub fn is_root(self) -> bool {
        matches!(self, Self::RootDirectory | Self::RootImage)
    }

    /// Is it laid over the root?
    pub fn is_extension(self) -> bool {
        matches!(self, Self::ExtensionImage | Self::ExtensionDirectory)
    }

    /// Does the kernel read it as a file system?
    pub fn is_image(self) -> bool {
        matches!(self, Self::RootImage | Self::MountImage | Self::ExtensionImage)
    }

    /// Is it mounted as a root, or at or over a part of one, with whatever is in it, such as links?
    pub fn brings_files(self) -> bool {
        self.is_image() || self.is_extension()
    }

    /// Does a task have it under a path that it can choose, and nothing but that?
    pub fn is_bind(self) -> bool {
        matches!(self, Self::Bind | Self::BindReadOnly)
    }

    /// Can the task not write to it in this way?
    pub fn only_reads(self) -> bool {
        match self {
            Self::BindReadOnly
            | Self::Verity
            | Self::ExtensionImage
            | Self::ExtensionDirectory
            | Self::Credential => true,
            Self::Bind | Self::RootDirectory | Self::RootImage | Self::MountImage | Self::OpenFile => false,
        }
    }

    /// The field of an element that says that the path may be missing; elsewhere a `-` before the path says it.
    pub(super) fn may_be_missing_field(self) -> Option<usize> {
        match self {
            Self::Bind | Self::BindReadOnly | Self::MountImage => Some(2),
            Self::ExtensionImage => Some(1),
            Self::RootDirectory
            | Self::RootImage
            | Self::Verity
            | Self::ExtensionDirectory
            | Self::Credential
            | Self::OpenFile => None,
        }
    }
}

impl PropertyDef {
    /// What systemd does with the files of the host that it names, if it names any.
    pub fn role(&self) -> Option<Role> {
        match self.paths {
            Paths::Host { role, .. } => Some(role),
            Paths::None | Paths::View | Paths::Kept(_) => None,
        }
    }

    pub(super) const fn host(mut self, field: usize, role: Role) -> Self {
        self.paths = Paths::Host { field, role };
        self
    }

    pub(super) const fn view(mut self) -> Self {
        self.paths = Paths::View;
        self
    }

    pub(super) const fn kept(mut self, below: &'static str) -> Self {
        self.paths = Paths::Kept(below);
        self
    }

    pub(super) const fn on(mut self, controller: &'static str) -> Self {
        self.controller = Some(controller);
        self
    }

    pub(super) const fn bpf(mut self) -> Self {
        self.bpf = true;
        self
    }

    /// Only the manager of the system can do it.
    pub(super) const fn system(mut self) -> Self {
        self.user_manager = false;
        self
    }
}

pub(super) const fn row(
    name: &'static str,
    since: u32,
    group: Group,
    kind: Kind,
    reach: Reach,
) -> PropertyDef {
    PropertyDef {
        name,
        since,
        group,
        controller: None,
        bpf: false,
        user_manager: true,
        reach,
        paths: Paths::None,
        kind,
    }
}

pub(super) const fn reserved(
    name: &'static str,
    since: u32,
    group: Group,
    reason: &'static str,
) -> PropertyDef {
    row(name, since, group, Kind::None, Reach::Reserved(reason))
}
