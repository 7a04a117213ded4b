//! The definition of a property: its section in the manual, its requirements, its reach, the paths that it names, and
//! the kind of its value.

use super::kind::Kind;

/// The definition of one property.
#[derive(Debug, PartialEq)]
pub struct PropertyDef {
    /// The name in the manual.
    pub name: &'static str,
    /// The first version of systemd that accepts it for a transient unit; 247 stands for 247 and all earlier versions.
    pub since: u32,
    /// The part of the manual that describes the property.
    pub group: Group,
    /// The cgroup controller without which the property has no effect.
    pub controller: Option<&'static str>,
    /// Whether the property needs the kernel's BPF.
    pub bpf: bool,
    /// Whether the property can have an effect in a user manager.
    pub user_manager: bool,
    /// How far the property reaches, or why it cannot be set. Some values reach further: see
    /// [`super::Assignment::reach`].
    pub reach: Reach,
    /// The paths that the property names.
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
    /// systemd.exec(5): attributes of a process, such as limits and priorities.
    Process,
    /// systemd.exec(5): restrictions of a process.
    Sandbox,
    /// systemd.service(5) and systemd.kill(5).
    Service,
    /// systemd.unit(5).
    Unit,
}

/// How far a property reaches, and why: a clause that begins with "it", for the operator who decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The property can only restrict the task.
    Confining(&'static str),
    /// The property reaches beyond the task: to files, users, units or hardware of the host, to what others need, or to
    /// what the driver set. An operator must allow it.
    BeyondTask(&'static str),
    /// The property would break what the driver guarantees to Nomad. The clause states why, or what to write instead.
    Reserved(&'static str),
}

/// The paths that a property names. All decisions about paths depend on this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paths {
    /// No paths that a job may set unless the operator allows the property itself.
    None,
    /// Files of the host. Each is checked against `allow_host_paths`, and pinned before systemd receives it.
    Host {
        /// The field of an element that contains the path: 0 if an element is only the path.
        field: usize,
        /// What systemd does with the path.
        role: Role,
    },
    /// Paths in the task's view, each of which systemd mounts over itself.
    View,
    /// Directories that systemd creates below this directory of the host, such as `/var/lib`, and keeps for the task.
    Kept(&'static str),
}

/// What systemd does with a file or directory of the host that a property names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The path is visible under another path.
    Bind,
    /// The path is visible under another path, read-only.
    BindReadOnly,
    /// The directory is the task's root.
    RootDirectory,
    /// The image is the task's root.
    RootImage,
    /// The file belongs to an image: its hashes, or their signature.
    Verity,
    /// The image is mounted at a path.
    MountImage,
    /// The image is laid over the root.
    ExtensionImage,
    /// The directory is laid over the root.
    ExtensionDirectory,
    /// The content of the file is a credential.
    Credential,
    /// The file is opened, and the task gets the descriptor.
    OpenFile,
}

impl Role {
    /// Does systemd open the file as root, and give the task what is in it, or the descriptor?
    pub fn is_opened_by_root(self) -> bool {
        matches!(self, Self::Credential | Self::OpenFile)
    }

    /// Is the path the whole root of the task?
    pub fn is_root(self) -> bool {
        matches!(self, Self::RootDirectory | Self::RootImage)
    }

    /// Is the path laid over the root?
    pub fn is_extension(self) -> bool {
        matches!(self, Self::ExtensionImage | Self::ExtensionDirectory)
    }

    /// Does the kernel read the file as a file system?
    pub fn is_image(self) -> bool {
        matches!(self, Self::RootImage | Self::MountImage | Self::ExtensionImage)
    }

    /// Is the path mounted as a root, or at or over a part of one, with everything in it, such as links?
    pub fn brings_files(self) -> bool {
        self.is_image() || self.is_extension()
    }

    /// Does a task see the path under a path that it can choose, and is that all?
    pub fn is_bind(self) -> bool {
        matches!(self, Self::Bind | Self::BindReadOnly)
    }

    /// Is the task unable to write to the path in this role?
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

    /// The field of an element that states that the path may be missing; in other roles a `-` before the path states
    /// it.
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
    /// What systemd does with the files of the host that the property names, if it names any.
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

    /// Marks the property as supported only by the system manager.
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
