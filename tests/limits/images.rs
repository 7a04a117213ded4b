//! Disk images of a job: as its root, at a path in it, over its `/usr`.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tests::{Host, Job, Node};

const BLOCK: usize = 4096;

/// Images in a directory of the host.
struct Images(tempfile::TempDir);

impl Images {
    /// systemd needs loop devices for images, which a machine creates on demand.
    fn new(host: &Host) -> Self {
        host.run("modprobe", &["-a", "loop", "dm_verity", "overlay"]);
        Self(tempfile::Builder::new().prefix("images-").tempdir_in("/srv").unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self) -> String {
        self.0.path().display().to_string()
    }

    /// An image with these files in it.
    fn make(&self, host: &Host, name: &str, files: &[(&str, &str)], directories: &[&str]) -> PathBuf {
        let tree = tempfile::tempdir().unwrap();
        fs::set_permissions(tree.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        for directory in directories {
            fs::create_dir_all(tree.path().join(directory)).unwrap();
        }
        for (file, content) in files {
            let file = tree.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, content).unwrap();
        }
        if directories.contains(&"usr") {
            for name in ["bin", "sbin", "lib", "lib64"] {
                symlink(format!("usr/{name}"), tree.path().join(name)).unwrap();
            }
        }
        let image = self.path(name);
        let (from, to) = (tree.path().to_str().unwrap(), image.to_str().unwrap());
        let small =
            ["-q", "-t", "ext4", "-O", "^has_journal", "-b", "4096", "-N", "64", "-d", from, to, "512k"];
        host.run("mke2fs", &small);
        image
    }

    /// An image that can be a root, with a file that identifies it.
    fn root(&self, host: &Host, name: &str) -> PathBuf {
        let needed = [
            "usr", "etc", "proc", "sys", "dev", "run", "tmp", "var/tmp", "alloc", "local", "secrets", "root",
        ];
        self.make(host, name, &[("opt/mark", "of the image\n")], &needed)
    }

    /// Verity data for an image, and the root hash (veritysetup's format, limited to the blocks whose hashes fit into
    /// one block).
    fn verity(&self, image: &Path, name: &str) -> (PathBuf, String) {
        let content = fs::read(image).unwrap();
        let mut hashes: Vec<u8> = content.chunks(BLOCK).flat_map(Sha256::digest).collect();
        assert!(hashes.len() <= BLOCK, "one block of hashes");
        hashes.resize(BLOCK, 0);
        let mut data = b"verity\0\0".to_vec();
        data.extend([1_u32, 1].iter().flat_map(|number| number.to_le_bytes()));
        data.extend([7; 16]);
        data.extend(b"sha256");
        data.resize(64, 0);
        data.extend([4096_u32, 4096].iter().flat_map(|size| size.to_le_bytes()));
        data.extend((content.chunks(BLOCK).len() as u64).to_le_bytes());
        data.resize(BLOCK, 0);
        data.extend(&hashes);
        let file = self.path(name);
        fs::write(&file, data).unwrap();
        let mut root = String::new();
        for byte in Sha256::digest(&hashes) {
            write!(root, "{byte:02x}").unwrap();
        }
        (file, root)
    }
}

#[tokio::test]
async fn a_task_sees_the_images_that_its_job_names() {
    let host = host!();
    let node = Node::configured(&host, r#"allow_host_paths = ["/srv", "/usr"]"#).await;
    let images = Images::new(&host);
    images.root(&host, "root.raw");
    // An image of its own: systemd 257 mounts an image without a hash writable, and the kernel records that in the
    // image.
    let verified = images.root(&host, "verified.raw");
    let (_, hash) = images.verity(&verified, "root.verity");
    images.make(&host, "data.raw", &[("file", "of the data\n")], &[]);
    let see_root = "cat /opt/mark; touch /local/x && ls /local; ls -d /srv 2>/dev/null || echo nothing of the host; \
                    touch /opt/new 2>/dev/null || echo read-only";
    let of_root = "of the image\nx\nnothing of the host\nread-only\n";
    for (config, script, expected) in [
        ("root_image = \"SRV/root.raw\"\n bind_read_only_paths = [\"/usr\"]", see_root, of_root),
        (
            "root_image = \"SRV/verified.raw\"\n bind_read_only_paths = [\"/usr\"]\n root_hash = \"HASH\"\n root_verity = \"SRV/root.verity\"",
            see_root,
            of_root,
        ),
        ("mount_images = [\"SRV/data.raw:/data\"]", "cat /data/file", "of the data\n"),
    ] {
        let config = format!("files {{\n{config}\n}}").replace("SRV", &images.text()).replace("HASH", &hash);
        let task = match node.try_run(Job::shell(script).config(&config)).await {
            Ok(task) => task,
            Err(refusal) => panic!("{config}: {refusal}"),
        };
        let (exit, output, errors) = node.finish(task).await;
        assert_eq!(output, expected, "{config}: {exit:?} {errors}");
    }
    // An image whose hash differs from the job's is not mounted.
    let other = format!("{}{}", if hash.starts_with('0') { '1' } else { '0' }, &hash[1..]);
    let config = "files {\n root_image = \"SRV/verified.raw\"\n bind_read_only_paths = [\"/usr\"]\n root_hash = \"HASH\"\n \
                  root_verity = \"SRV/root.verity\"\n }";
    let config = config.replace("SRV", &images.text()).replace("HASH", &other);
    let refusal = node.try_run(Job::shell("true").config(&config)).await.expect_err("another hash");
    assert!(refusal.message.contains("NAMESPACE"), "{refusal}");
}

#[tokio::test]
async fn an_extension_lies_over_a_root_of_the_tasks_own() {
    let host = host!();
    let node = Node::configured(&host, r#"allow_host_paths = ["/srv"]"#).await;
    let images = Images::new(&host);
    // A shell, a program and their libraries, the mount points, and the os-release file.
    let fill = "mkdir -p $0/root && cd $0/root && mkdir -p usr/lib etc proc sys dev run tmp var/tmp alloc local secrets && \
        for file in /bin/sh /bin/cat $(ldd /bin/sh /bin/cat | grep -o '/[^ ]*' | tr -d ':'); do \
        mkdir -p .$(dirname $file) && cp -aL $file .$file; done && \
        printf 'ID=ours\nVERSION_ID=1\n' | tee usr/lib/os-release > etc/os-release";
    host.run("sh", &["-c", fill, &images.text()]);
    let files = [
        ("usr/lib/extension-release.d/extension-release.more", "ID=ours\nVERSION_ID=1\n"),
        ("usr/share/more/file", "of the extension\n"),
    ];
    images.make(&host, "more.raw", &files, &[]);
    let directory = images.path("directory/more");
    for (file, content) in files {
        fs::create_dir_all(directory.join(file).parent().unwrap()).unwrap();
        fs::write(directory.join(file), content).unwrap();
    }
    for option in
        [r#"extension_images = ["SRV/more.raw"]"#, r#"extension_directories = ["SRV/directory/more"]"#]
    {
        let job = |root: &str| {
            let config = format!("files {{\n{root}\n{option}\n}}").replace("SRV", &images.text());
            Job::shell("/bin/cat /usr/share/more/file").config(&config)
        };
        let task = match node.try_run(job(r#"root_directory = "SRV/root""#)).await {
            Ok(task) => task,
            Err(refusal) => panic!("{option}: {refusal}"),
        };
        let (_, output, errors) = node.finish(task).await;
        assert_eq!(output, "of the extension\n", "{option}: {errors}");
        // systemd would only report that there is no such file.
        let refusal = node.try_run(job("")).await.expect_err("the host's /usr");
        assert!(refusal.message.contains("root of its own"), "{option}: {refusal}");
    }
}

#[tokio::test]
async fn an_image_that_a_job_brings_is_mounted_if_the_operator_lets_it() {
    let host = host!();
    let images = Images::new(&host);
    let image = fs::read(images.root(&host, "root.raw")).unwrap();
    let job = || Job::shell("cat /opt/mark").file("root.raw", &image);
    let config =
        |path: &str| format!("files {{\n root_image = \"{path}\"\n bind_read_only_paths = [\"/usr\"]\n }}");

    let closed = Node::configured(&host, r#"allow_host_paths = ["/srv", "/usr"]"#).await;
    let refusal =
        closed.try_run(job().config(&config("root.raw"))).await.expect_err("an image of the job's own");
    assert!(refusal.message.contains("`allow_host_paths = [\"local\"]`"), "{refusal}");

    let open = Node::configured(&host, r#"allow_host_paths = ["local", "/usr"]"#).await;
    assert_eq!(open.output_of(job().config(&config("root.raw"))).await, "of the image\n");
    let of_host = job().config(&config(images.path("root.raw").to_str().unwrap()));
    let refusal = open.try_run(of_host).await.expect_err("an image of the host");
    assert!(refusal.message.contains("neither it nor a directory above it"), "{refusal}");
    // A link that leads to a path that the operator does not allow.
    let job = Job::shell("cat /opt/mark").config(&config("root.raw"));
    let prepared = open.prepare(&job);
    symlink(images.path("root.raw"), prepared.alloc_dir().join("web/local/root.raw")).unwrap();
    let refusal = open.begin(prepared).await.expect_err("a link out of local");
    assert!(refusal.message.contains("root.raw cannot be opened"), "{refusal}");
}
