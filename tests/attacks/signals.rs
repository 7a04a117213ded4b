//! Forged messages on the bus in systemd's format: a signal can be sent to a connection that has not subscribed to it.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt;
use tests::{Exit, Job, Node};
use zbus::message::Type;
use zbus::{Connection, MessageStream, Variant, fdo};

const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const SERVICE: &str = "org.freedesktop.systemd1.Service";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// The object path of a unit on the bus.
fn path_of(unit: &str) -> String {
    let escaped = unit.bytes().map(|byte| match byte {
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("_{byte:02x}"),
    });
    format!("/org/freedesktop/systemd1/unit/{}", escaped.collect::<String>())
}

/// A signal about the exit of the unit's main process with this status, broadcast on the bus.
async fn tell_an_end(us: &Connection, unit: &str, status: i32) -> zbus::Result<()> {
    let path = path_of(unit);
    let changed: HashMap<&str, Variant<'_>> = HashMap::from([
        ("ExecMainCode", 1_i32.into()),
        ("ExecMainStatus", status.into()),
        ("SubState", "exited".into()),
        ("ActiveState", "active".into()),
    ]);
    for name in fdo::DBusProxy::new(us).await?.list_names().await? {
        let Some(name) = name.as_str().starts_with(':').then(|| name.as_str()) else { continue };
        us.emit_signal(
            Some(name),
            &*path,
            PROPERTIES,
            "PropertiesChanged",
            &(SERVICE, &changed, Vec::<&str>::new()),
        )
        .await?;
        let job = "/org/freedesktop/systemd1/job/1".try_into().map(|path: zbus::ObjectPath<'_>| path)?;
        us.emit_signal(
            Some(name),
            "/org/freedesktop/systemd1",
            MANAGER,
            "JobRemoved",
            &(1_u32, job, unit, "done"),
        )
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_end_that_somebody_else_on_the_bus_tells_is_none() {
    let host = host!();
    // The driver of root uses the bus only if it is configured to.
    let node = Node::over_the_bus(&host).await;
    let script = "echo ready; until test -e /local/enough; do sleep 0.1; done; exit 7";
    let mut task = node.run(Job::shell(script)).await;
    task.says("ready").await;
    let unit = node.unit(&task).await;

    // A connection without any subscription gets the signal too.
    let (us, somebody) = (Connection::system().await.unwrap(), Connection::system().await.unwrap());
    let mut messages = MessageStream::from(&somebody);
    tell_an_end(&us, &unit, 42).await.unwrap();
    let told = async {
        loop {
            let message = messages.next().await.unwrap().unwrap();
            let is_end =
                message.header().member().is_some_and(|member| member.as_str() == "PropertiesChanged");
            if message.message_type() == Type::Signal && is_end {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), told).await.expect("the bus delivers such signals");

    // The driver has read them before the signals about this task.
    assert_eq!(node.output_of(Job::shell("echo another")).await, "another\n");
    std::fs::write(task.alloc_dir().join(&task.name).join("local/enough"), "").unwrap();
    let (exit, ..) = node.finish(task).await;
    assert_eq!(exit, Exit::status(7));
}
