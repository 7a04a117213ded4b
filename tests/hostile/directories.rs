//! Paths, symbolic links and read-only grants: no guest leaves the directories that it was granted.

use tests::built_guest;

use super::FAILED;
use super::scene::{SECRET, Scene, seen, tidy};

/// Paths by which a guest in the directory `first` might leave it. `up`, `secret` and `process` are symbolic links that
/// lead out and already existed.
const WAYS_OUT: &str = "
    .. ../ ./.. ../outside ../outside/secret inner/../../outside/secret inner/deep/../../../outside up up/
    up/outside/secret up/../outside/secret secret secret/ secret/. process/environ process/cwd/outside/secret
    process/root/etc/hostname process/fd/0 /etc/hostname //etc/hostname / inner/file/../../../outside/secret
    inner/../inner/../.. inner\0/../../outside/secret
";

/// The requests for such a path.
const REQUESTS: &str = "open 0 r WAY, open 0 rd WAY, open 0 wc WAY, open 0 wcx WAY, open 0 wt WAY, open 0 rwcd WAY, \
    stat 0 WAY, touch 0 WAY, inside 0 WAY new, mkdir 0 WAY/new, rmdir 0 WAY/empty, unlink 0 WAY/secret, \
    symlink 0 anywhere WAY/new, linkto 0 WAY 0 mine, link 0 WAY/secret 0 mine, link 0 inner/file 0 WAY/new, \
    rename 0 WAY/secret 0 mine, rename 0 inner/file 0 WAY/new, rename 0 inner 0 WAY/new/, rename 1 box 0 WAY/box, \
    rename 1 box 0 WAY/empty, link 1 kept 0 WAY/new, linkto 1 out 0 WAY/new, readlink 0 WAY/link";

#[test]
fn no_path_leads_out_of_a_directory() {
    for guest in ["paths_p1", "paths_p3"].into_iter().filter_map(built_guest) {
        let scene = Scene::new();
        let requests = WAYS_OUT
            .split_whitespace()
            .flat_map(|way| REQUESTS.split(", ").map(move |request| request.replace("WAY", way)));
        let denied: Vec<_> = requests.chain(["open 0 r ".to_owned(), "open 0 rd ".to_owned()]).collect();
        for (request, answer) in denied.iter().zip(scene.ask(&guest, "", &denied.join("\n"))) {
            assert!(answer.starts_with("no "), "{guest}: {request:?} is answered by {answer:?}");
        }
        scene.must_be_as_it_was();
    }
}

#[test]
fn no_symbolic_link_that_a_guest_makes_leads_out() {
    // A link may have any target, and may be moved to where that would lead out. Only the opened file counts.
    let table = [
        ("symlink 0 ../outside way", "ok"),
        ("open 0 r way/secret", "no"),
        ("open 0 rd way", "no"),
        ("open 0 wc way/new", "no"),
        ("mkdir 0 way/new", "no"),
        ("rename 0 inner/file 0 way/new", "no"),
        ("rename 1 box 0 way/box", "no"),
        ("symlink 0 ../outside/new dangling", "ok"),
        ("open 0 wc dangling", "no"),
        ("open 0 wcn dangling", "no"),
        ("open 0 wcx dangling", "no"),
        ("open 0 wc dangling/", "no"),
        ("link 0 inner/file 0 dangling", "no"),
        ("linkto 0 dangling 0 mine", "no"),
        ("touch 0 dangling", "no"),
        ("mkdir 0 dangling", "no"),
        ("symlink 0 way again", "ok"),
        ("open 0 r again/secret", "no"),
        ("symlink 0 .. inner/deep/up", "ok"),
        ("symlink 0 up/../../outside inner/deep/far", "ok"),
        ("open 0 r inner/deep/far/secret", "no"),
        ("symlink 0 ../../outside inner/deep/way", "ok"),
        ("open 0 rd inner/deep/way", "no"),
        ("rename 0 inner/deep 0 deep", "ok"),
        ("open 0 r deep/way/secret", "no"),
        ("rename 0 deep 1 deep", "ok"),
        ("open 1 r deep/way/secret", "no"),
        ("rename 0 way 1 way", "ok"),
        ("open 1 r way/secret", "no"),
        ("symlink 0 me me", "ok"),
        ("open 0 r me", "no"),
        ("rename 0 inner/file 0 again", "ok"),
        ("open 0 r again", "ok inner"),
    ];
    for guest in ["paths_p1", "paths_p3"].into_iter().filter_map(built_guest) {
        let scene = Scene::new();
        let requests: Vec<_> = table.iter().map(|(request, _)| *request).collect();
        for ((request, expected), answer) in table.iter().zip(scene.ask(&guest, "", &requests.join("\n"))) {
            assert!(answer.starts_with(expected), "{guest}: {request} is answered by {answer}");
        }
        // Absolute links are rejected, or lead nowhere.
        let requests = ["symlink 0 /ROOT/outside abs", "open 0 r abs/secret", "open 0 rd abs"].join("\n");
        let root = scene.desk.path("").trim_matches('/').to_owned();
        for answer in &scene.ask(&guest, "", &requests.replace("ROOT", &root))[1..] {
            assert!(answer.starts_with("no "), "{guest}: {answer}");
        }
        scene.must_be_as_it_was();
    }
}

#[test]
fn a_directory_that_becomes_a_link_at_the_wrong_moment_leads_nowhere() {
    let Some(guest) = built_guest("paths_p1") else { return };
    let scene = Scene::new();
    let setup = "mkdir 0 x\nopen 0 wc x/secret\nsymlink 0 ../outside link";
    assert!(scene.ask(&guest, "", setup).iter().all(|answer| answer.starts_with("ok")));

    let flips = "rename 0 x 0 dir\nrename 0 link 0 x\nrename 0 x 0 link\nrename 0 dir 0 x\n".repeat(2_000);
    let looks = "open 0 r x/secret\nopen 0 w x/secret\nstat 0 x/secret\n".repeat(3_000);
    let (looked, flipped) = std::thread::scope(|scope| {
        let flipping = scope.spawn(|| scene.ask(&guest, "", &flips));
        (scene.ask(&guest, "", &looks), flipping.join().unwrap())
    });
    assert!(flipped.iter().all(|answer| answer.starts_with("ok")), "it changed all the time");
    assert!(looked.iter().any(|answer| answer.starts_with("ok overwritten")), "it was a directory at times");
    assert!(looked.iter().any(|answer| answer.starts_with("no")), "it was a link at times");
    assert!(looked.iter().all(|answer| !answer.contains(SECRET)));
    scene.must_be_as_it_was();
}

#[test]
fn a_granted_directory_that_a_guest_made_a_link_is_not_opened_at_the_next_start() {
    let Some(guest) = built_guest("paths_p1") else { return };
    for (target, leads_to) in [("../outside", "outside"), ("../../../../../../../../proc/self", "/proc/self")]
    {
        for grant in ["", ":ro"] {
            let scene = Scene::new();
            let inner = scene.desk.path("first/inner");
            let dirs = [format!("{}::/first", scene.desk.path("first")), format!("{inner}::/inner{grant}")];
            let swap = format!("rename 0 inner 0 moved\nsymlink 0 {target} inner\nopen 1 r file");
            let end = scene.start(&guest, &dirs, &swap);
            assert_eq!(end.stdout(), "ok\nok\nok inner\n", "it has the directory that it was granted");

            let end = scene.start(&guest, &dirs, "open 1 r secret\nopen 1 r environ\nopen 1 r status");
            assert_eq!((end.code(), end.stdout().as_str()), (FAILED, ""), "{leads_to}");
            end.says(&format!("--dir (in a job `wasm.dirs`): open directory `{inner}` for the guest: `{inner}` is a symbolic link"));
            let below = [dirs[0].clone(), format!("{inner}/deep::/inner{grant}")];
            let end = scene.start(&guest, &below, "open 1 r file");
            end.says(&format!("`{inner}` is a symbolic link"));
            scene.must_be_as_it_was();
        }
    }
}

#[test]
fn no_guest_is_granted_the_cache_of_compiled_code() {
    let scene = Scene::new();
    let hello = scene.desk.guest("hello");
    let cache = scene.desk.cache().display().to_string();
    for granted in [&scene.desk.path(""), &cache, &scene.desk.path("cache")] {
        for more in [&[][..], &["--no-cache"]] {
            let end = scene.desk.run(&[&["run", "--dir", granted], more, &[&hello]].concat());
            assert_eq!(tidy(&end), FAILED, "{granted}: {end:?}");
            end.says(&format!("the guest could write to `{cache}`"));
        }
        let end = scene.desk.run(&["run", "--dir", &format!("{granted}::/x:ro"), &hello]);
        assert_eq!(tidy(&end), 0, "{granted}, to be read: {end:?}");
    }
    scene.must_be_as_it_was();
}

#[test]
fn nothing_changes_in_a_read_only_directory() {
    for guest in ["paths_p1", "paths_p3"].into_iter().filter_map(built_guest) {
        let scene = Scene::new();
        let before = seen(&scene.desk.path("first"));
        let requests = "open 0 w inner/file\nopen 0 rw inner/file\nopen 0 wt inner/file\nopen 0 t inner/file\n\
                        open 0 rt inner/file\nopen 0 wc new\nopen 0 rc new\nopen 0 c new\nopen 0 cx new\n\
                        meddle 0 inner/file\ninside 0 inner new\ntouch 0 inner/file\ntouch 0 inner\nmkdir 0 new\n\
                        rmdir 0 inner/empty\nunlink 0 inner/file\nunlink 0 up\nsymlink 0 inner new\n\
                        link 0 inner/file 0 new\nlink 0 inner/file 1 mine\nlinkto 0 inner/file 1 mine\n\
                        link 1 kept 0 new\nrename 0 inner/file 0 new\nrename 0 inner/file 1 mine\nrename 0 inner 1 mine\n\
                        rename 1 kept 0 new\nrename 1 kept 0 inner/file\nrename 1 box 0 inner/empty";
        for (request, answer) in requests.lines().zip(scene.ask(&guest, ":ro", requests)) {
            assert!(answer.starts_with("no "), "{guest}: {request} is answered by {answer}");
        }
        let answers = scene.ask(&guest, ":ro", "open 0 r inner/file\nopen 1 r kept\nopen 1 w kept");
        assert_eq!(answers, ["ok inner", "ok kept", "ok"], "{guest}");
        assert_eq!(before, seen(&scene.desk.path("first")), "{guest}");
        scene.must_be_as_it_was();
    }
}
