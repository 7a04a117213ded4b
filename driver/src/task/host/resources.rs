//! What is created on the host for the start of a task, in addition to its allocation: its root and mount points, files
//! in `/etc`, copies of credentials, pins of host paths.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use shim_interface::Same;

use super::dirs::{Closed, TaskDirs};
use super::pin::{Base, Pins};
use super::runtime_dir::{self, TaskRuntimeDir};
use super::targets::{Missing, Target};
use super::view::{self, Overlays, View};
use super::{access, dirs, files, own_root, targets, users};
use crate::kernel;
use crate::systemd::{Assignment, Role};
use crate::task::config::{self, Credential, Mount};
use crate::task::error::Error;
use crate::task::spec::activation::Listener;
use crate::task::spec::{self, Identity, NodeSpec, TaskKind, TaskSpec};

/// What was created on the host for the start of a task.
#[derive(Debug, Clone)]
pub struct HostResources {
    /// Root on which the task's view is mounted.
    pub root: PathBuf,
    /// The task's directories, by paths that systemd finds.
    pub dirs: TaskDirs,
    /// The group's network namespace, by a path that systemd finds.
    pub network: Option<PathBuf>,
    /// A separate file system of terminals.
    pub terminals: Option<PathBuf>,
    /// Directories in the shared directory that the task may write to; `None` for all of it.
    pub writable: Option<Vec<&'static str>>,
    /// What must be at the task's directories when it starts.
    pub same: Vec<Same>,
    /// systemd properties that the job sets, with every host path resolved.
    pub settings: Vec<Assignment>,
    /// Files of the task's own in `/etc`: on the host, and in the view.
    pub etc: Vec<(PathBuf, PathBuf)>,
    /// Credentials, by name.
    pub credentials: Vec<(String, PathBuf)>,
    /// Encrypted credentials, by name.
    pub encrypted: Vec<(String, PathBuf)>,
    /// Sockets of the task, with host paths.
    pub sockets: Vec<Listener>,
    /// Volumes of the task, with pinned sources.
    pub mounts: Vec<Mount>,
    /// What the task sees in place of host paths.
    pub overlays: Overlays,
}

impl HostResources {
    /// Those of a task for which nothing was created, with every path as Nomad and the job name it.
    pub fn of(task: &TaskSpec) -> Self {
        Self {
            root: PathBuf::new(),
            dirs: task.dirs.clone(),
            network: task.network.namespace().map(Path::to_owned),
            terminals: None,
            writable: None,
            same: Vec::new(),
            settings: task.settings.clone(),
            etc: Vec::new(),
            credentials: Vec::new(),
            encrypted: Vec::new(),
            sockets: task.sockets.clone(),
            mounts: task.mounts.clone(),
            overlays: Overlays::new(),
        }
    }
}

/// Names of credentials, and the host files that systemd reads for them.
type Copies = Vec<(String, PathBuf)>;

/// Mount points of the task, and those that the operating system lacks.
struct Points {
    targets: Vec<Target>,
    missing: Missing,
}

/// Creates what the task needs on the host in addition to its allocation, after all checks have passed.
pub(crate) fn make(
    place: &TaskRuntimeDir,
    task: &TaskSpec,
    node: &NodeSpec,
    pins: &mut Pins,
) -> Result<HostResources, Error> {
    let points = check(task, node).map_err(|error| Error::Files(files::Error::Target(error)))?;
    let requested = &task.settings;
    let settings = files::resolve(requested, task, &node.policy, pins).map_err(Error::Files)?;
    let root_directory = Assignment::last(&settings, "RootDirectory");
    if let Some(root) = root_directory.and_then(|line| line.texts().into_iter().next()) {
        own_root::check_ways(Path::new(&root), requested, &points.targets)
            .map_err(|error| Error::Files(files::Error::Target(error)))?;
    }
    check_kinds(&settings, &task.view).map_err(|error| Error::Files(files::Error::Target(error)))?;
    let mounts = files::mounts(task, pins).map_err(Error::Files)?;
    let failed = |what| move |source| Error::Make { what, directory: node.runtime_dir.clone(), source };
    let overlays = overlays(place, &points.missing, &settings, &mounts, pins)?;
    let mut root = node.installation.root.clone();
    if matches!(task.view, View::Private { .. }) && task.needs_a_root_of_its_own(&settings) {
        root = place.root();
        let made = place.make().and_then(|()| view::prepare(&root, &node.installation.host_paths));
        made.map_err(failed("the root of the task's view"))?;
    }
    if let Identity::Number(number) = task.identity {
        place.register_user(number).map_err(failed("the record of the task's user"))?;
        check_known(number)?;
    }
    let etc = if task.etc.is_empty() { Ok(Vec::new()) } else { place.etc(&task.etc) };
    let etc = etc.map_err(failed("a file of the task's `/etc`"))?;
    let directory = task.dirs.alloc_dir.clone();
    let closed = dirs::close(&task.dirs, task.view == View::Host);
    let Closed { writable, same } = closed.map_err(|source| Error::Directories { directory, source })?;
    let dirs = task.dirs.seen_by_systemd(pins).map_err(failed("the way to the task's directories"))?;
    let network = task.network.namespace().map(|file| pins.seen_by_systemd(Base::Host(file)));
    let network = network.transpose().map_err(failed("the way to the group's network namespace"))?;
    let listener = |socket| files::listener(socket, task, &dirs);
    let sockets = task.sockets.iter().map(listener).collect::<Result<_, _>>().map_err(Error::Files)?;
    // The host's terminals belong to its other users, and not to the author of the job.
    let terminals = match (&task.kind, &task.identity) {
        (TaskKind::Native, Identity::User(_)) if task.view != View::Host => pins.terminals(),
        _ => Ok(None),
    };
    let terminals = terminals.map_err(failed("the task's file system of terminals"))?;
    // A path that the job closes, or mounts something else on, must not be compared.
    let is_open = |same: &Same| {
        let at = Path::new(&same.path);
        !access::paths(requested).any(|(option, path)| option == "InaccessiblePaths" && at.starts_with(path))
    };
    let same = same.into_iter().filter(is_open).collect();
    let in_alloc = writable.as_deref().unwrap_or_default();
    let settings = if task.view == View::Host { settings } else { access::of_all_alloc(settings, in_alloc) };
    let (credentials, encrypted) = credentials(place, task, node)?;
    Ok(HostResources {
        root,
        dirs,
        network,
        terminals,
        writable,
        same,
        settings,
        etc,
        credentials,
        encrypted,
        sockets,
        mounts,
        overlays,
    })
}

/// Checks what the job configures about files, before anything is created.
fn check(task: &TaskSpec, node: &NodeSpec) -> Result<Points, targets::Error> {
    let requested = &task.settings;
    let targets = files::targets(requested, task);
    let shim = node.installation.shim().ok();
    let ours: Vec<PathBuf> =
        [node.runtime_dir.clone(), node.installation.state_dir.clone()].into_iter().chain(shim).collect();
    let missing = targets::check(&targets, task, &ours)?;
    let is_of_job = |line: &Assignment| files::is_of_job(line, task, &node.policy);
    own_root::check_namespace(requested, &targets, is_of_job)?;
    let programs = if task.view == View::Host { ours.as_slice() } else { &[] };
    own_root::check_extensions(requested, &targets, programs)?;
    let is_in_root = |role: Role| role.is_extension() || role == Role::RootImage;
    let brings_links = requested.iter().any(|line| line.role().is_some_and(is_in_root) && is_of_job(line));
    access::check(requested, &targets, task, brings_links)?;
    Ok(Points { targets, missing })
}

/// Is a file bound on a file and a directory on a directory, if the target is a host path?
fn check_kinds(settings: &[Assignment], view: &View) -> Result<(), targets::Error> {
    let is_of_host = |target: &Path| match view {
        View::Host => true,
        View::Private { host_paths } => host_paths.iter().any(|of| target.starts_with(of)),
        View::Own => false,
    };
    for line in settings.iter().filter(|line| line.name() == "TemporaryFileSystem") {
        let paths = line.mount_points().into_iter().map(|(_, target)| PathBuf::from(target));
        let is_file =
            |path: &PathBuf| is_of_host(path) && fs::symlink_metadata(path).is_ok_and(|at| at.is_file());
        if let Some(path) = paths.into_iter().find(is_file) {
            return Err(targets::Error::Kinds { option: line.name(), path, source_is_directory: true });
        }
    }
    for line in settings.iter().filter(|line| matches!(line.role(), Some(Role::Bind | Role::BindReadOnly))) {
        for (source, target) in line.mount_points() {
            let path = PathBuf::from(target);
            let (Some(source), true) = (source, is_of_host(&path)) else { continue };
            let (Ok(of), Ok(at)) = (fs::metadata(source), fs::symlink_metadata(&path)) else { continue };
            if of.is_dir() != at.is_dir() && !at.is_symlink() {
                return Err(targets::Error::Kinds {
                    option: line.name(),
                    path,
                    source_is_directory: of.is_dir(),
                });
            }
        }
    }
    Ok(())
}

/// A copy of each credential: the plain ones, and those that systemd decrypts.
fn credentials(place: &TaskRuntimeDir, task: &TaskSpec, node: &NodeSpec) -> Result<(Copies, Copies), Error> {
    let (mut plain, mut sealed) = (Vec::new(), Vec::new());
    let mut read = 0;
    for Credential { name, path, encrypted } in &task.credentials {
        let content = files::credential(Path::new(path), read, task, &node.policy).map_err(Error::Files)?;
        read += content.len();
        let copy = place.credential(name, &content).map_err(|source| {
            let what = "the copy of a credential";
            Error::Make { what, directory: node.runtime_dir.clone(), source }
        })?;
        if *encrypted { &mut sealed } else { &mut plain }.push((name.clone(), copy));
    }
    Ok((plain, sealed))
}

/// Does the host know a dynamic user of Nomad after it was registered?
fn check_known(number: u32) -> Result<(), Error> {
    if users::find(&runtime_dir::user_name(number)).is_some() {
        return Ok(());
    }
    Err(Error::Spec(spec::Error::Node {
        option: "user".to_owned(),
        reason: format!(
            "users that Nomad makes up, such as {}, are known to the host by systemd 249 or newer and `systemd` in \
             /etc/nsswitch.conf (package libnss-systemd); without it have the operator set \
             `dynamic_workload_users = false`",
            runtime_dir::user_name(number)
        ),
    }))
}

/// Creates the mount points that the operating system lacks, each of the kind of what is mounted there.
fn overlays(
    place: &TaskRuntimeDir,
    missing: &Missing,
    settings: &[Assignment],
    mounts: &[config::Mount],
    pins: &mut Pins,
) -> Result<view::Overlays, Error> {
    let of_settings = settings.iter().flat_map(Assignment::mount_points);
    let of_settings = of_settings.map(|(source, target)| (source.map(PathBuf::from), PathBuf::from(target)));
    let of_volumes = mounts.iter().map(|mount| (Some(mount.source.clone()), mount.target.clone()));
    let sources: HashMap<PathBuf, Option<PathBuf>> =
        of_settings.chain(of_volumes).map(|(source, target)| (target, source)).collect();
    let is_file = |point: &PathBuf| {
        let source = sources.get(point).and_then(Option::as_ref);
        source.is_some_and(|source| std::fs::metadata(source).is_ok_and(|metadata| !metadata.is_dir()))
    };
    let kinds = |points: &Vec<PathBuf>| points.iter().map(|point| (point.clone(), !is_file(point))).collect();
    let lay = |(host_path, points): (&PathBuf, &Vec<PathBuf>)| {
        let failed = |source| Error::Overlay { path: host_path.clone(), source };
        // Pins are mounts that may be missing in the driver's own mount namespace.
        let points: Vec<_> = kernel::in_mount_namespace_of_pid1(|| Ok(kinds(points))).map_err(failed)?;
        let above = place.points(host_path, &points).map_err(failed)?;
        let both = pins.overlay(&above, host_path).map_err(failed)?;
        Ok((host_path.clone(), both))
    };
    missing.iter().map(lay).collect()
}
