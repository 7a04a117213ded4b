//! The request that `systemd-run` sends to a manager.
//!
//! `systemd-run --user` connects to whatever listens at the path of a user manager. Here the test listens, which
//! records what it should start and starts nothing.

use std::process::Stdio;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::process::Command;
use zbus::{MessageStream, OwnedVariant, Variant, connection};

/// A property in the format of the bus.
pub(crate) type Property = (String, Variant<'static>);
/// The arguments of `StartTransientUnit`.
type Start = (String, String, Vec<(String, OwnedVariant)>, Vec<(String, Vec<(String, OwnedVariant)>)>);

/// Takes the place of a user manager.
pub(crate) struct Manager {
    directory: tempfile::TempDir,
    asked: Arc<Mutex<Option<Vec<Property>>>>,
    /// The properties that `systemd-run` sends by default.
    always: Vec<Property>,
    pub(crate) version: u32,
}

impl Manager {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("systemd")).unwrap();
        let listener = UnixListener::bind(directory.path().join("systemd/private")).unwrap();
        let asked = Arc::new(Mutex::new(None));
        tokio::spawn(listen(listener, Arc::clone(&asked)));
        let words = Command::new("systemd-run").arg("--version").output().await.unwrap().stdout;
        let words = String::from_utf8(words).unwrap();
        let version = words.split([' ', '.', '~']).nth(1).unwrap().parse().unwrap();
        let mut manager = Self { directory, asked, always: Vec::new(), version };
        manager.always = manager.all(&[]).await.expect("systemd-run to ask us");
        manager
    }

    /// The properties that `systemd-run` sends for `assignments`; `Err` contains its error message.
    pub(crate) async fn sent(&self, assignments: &[(&str, &str)]) -> Result<Vec<Property>, String> {
        let mut sent = self.all(assignments).await?;
        let before = sent.iter().zip(&self.always).take_while(|(sent, always)| sent == always).count();
        let behind = self.always.len() - before;
        let end = sent.len() - behind;
        assert_eq!(sent[end..], self.always[before..], "{assignments:?}");
        sent.truncate(end);
        Ok(sent.split_off(before))
    }

    async fn all(&self, assignments: &[(&str, &str)]) -> Result<Vec<Property>, String> {
        let output = Command::new("systemd-run")
            .args(["--user", "--no-block", "--unit=x"])
            .args(assignments.iter().map(|(name, text)| format!("--property={name}={text}")))
            .arg("/bin/true")
            .env_clear()
            .env("XDG_RUNTIME_DIR", self.directory.path())
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let asked = self.asked.lock().unwrap().take();
        asked.ok_or_else(|| String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

async fn listen(listener: UnixListener, asked: Arc<Mutex<Option<Vec<Property>>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, Arc::clone(&asked)));
    }
}

/// Records what should be started, and refuses it.
async fn serve(stream: UnixStream, asked: Arc<Mutex<Option<Vec<Property>>>>) {
    let guid = zbus::Guid::generate();
    let stream = stream.into_std().unwrap();
    let connection = connection::Builder::unix_stream(stream).server(guid).p2p().build().await.unwrap();
    let mut messages = MessageStream::from(&connection);
    while let Some(Ok(message)) = messages.next().await {
        let header = message.header();
        if header.member().is_some_and(|member| member.as_str() == "StartTransientUnit") {
            let (_, _, properties, _): Start = message.body().deserialize().unwrap();
            let properties = properties.into_iter().map(|(name, value)| (name, value.into()));
            *asked.lock().unwrap() = Some(properties.collect());
        }
        let refusal = ("org.freedesktop.DBus.Error.Failed", "this is a test");
        let _ = connection.reply_error(&header, refusal.0, &refusal.1).await;
    }
}
