//! The connection to systemd: by the system bus, or by systemd's own socket when there is no bus.
//!
//! One per process, made when it is needed and made anew when it has gone. Who asks meanwhile is told
//! [`Lost::Gone`] after at most [`CONNECT`].

use std::{collections::HashMap, future::poll_fn, pin::Pin, sync::Arc, time::Duration};

use futures_core::Stream;
use tokio::{
    runtime::{Handle, Id},
    sync::{Mutex, broadcast},
    time::timeout,
};

use super::private;
use zbus::{
    Connection, DynamicType, MatchRule, Message, MessageStream, OwnedObjectPath, OwnedVariant,
    connection::Builder, fdo, message::Type,
};

/// How long connecting may take, the bus and the socket together.
const CONNECT: Duration = Duration::from_secs(5);
/// Ends of jobs that one who waits may be behind; then it asks for its job instead.
const JOBS: usize = 256;

const NAME: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const ROOT: &str = "/org/freedesktop/systemd1";

/// Properties of a unit, by name.
pub(super) type Properties = HashMap<String, OwnedVariant>;

/// Why there is no answer.
#[derive(Clone, Debug)]
pub(super) enum Lost {
    /// systemd cannot be reached.
    Gone(String),
    /// systemd said no: the name of its error, and its text.
    Refused(String, String),
}

impl Lost {
    /// The last part of the name of the error: `NoSuchUnit`.
    pub(super) fn kind(&self) -> &str {
        match self {
            Lost::Gone(_) => "",
            Lost::Refused(name, _) => name.rsplit('.').next().unwrap_or_default(),
        }
    }
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Lost::Gone(why) => write!(f, "systemd cannot be reached: {why}"),
            Lost::Refused(_, text) => f.write_str(text),
        }
    }
}

/// A job that has ended.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    /// Its object path.
    pub job: String,
    /// `done`, `failed`, `timeout`, …: org.freedesktop.systemd1(5), `JobRemoved`.
    pub result: String,
}

/// A live connection.
pub(super) struct Bus {
    connection: Connection,
    jobs: broadcast::Sender<Ended>,
}

/// A connection serves the runtime that it was made in.
static HELD: Mutex<Option<(Id, Arc<Bus>)>> = Mutex::const_new(None);

impl Bus {
    /// The connection; a new one if there is none or it has gone.
    pub(super) async fn get() -> Result<Arc<Bus>, Lost> {
        let runtime = Handle::current().id();
        let mut held = HELD.lock().await;
        if let Some((id, bus)) = held.as_ref()
            && *id == runtime
            && !bus.connection.is_closed()
        {
            return Ok(bus.clone());
        }
        *held = None;
        let bus = match timeout(CONNECT, Self::connect()).await {
            Ok(bus) => Arc::new(bus?),
            Err(_) => return Err(Lost::Gone(format!("no answer within {CONNECT:?}"))),
        };
        *held = Some((runtime, bus.clone()));
        Ok(bus)
    }

    async fn connect() -> Result<Bus, Lost> {
        // DBUS_SYSTEM_BUS_ADDRESS, or the usual socket.
        let bus = timeout(CONNECT / 2, Self::subscribed(Builder::system())).await;
        let why = match bus {
            Ok(Ok(bus)) => return Ok(bus),
            Ok(Err(why)) => why.to_string(),
            Err(_) => format!("no answer on the system bus within {:?}", CONNECT / 2),
        };
        let own =
            async { Self::subscribed(Builder::unix_stream(private::connect().await?).p2p()).await };
        own.await.map_err(|own| {
            Lost::Gone(format!(
                "by the system bus: {why}; by its own socket: {own}"
            ))
        })
    }

    async fn subscribed(builder: Builder<'_>) -> zbus::Result<Bus> {
        let connection = builder.build().await?;
        let mut rule = MatchRule::builder()
            .msg_type(Type::Signal)
            .path(ROOT)
            .interface(MANAGER)
            .member("JobRemoved");
        if connection.is_bus() {
            rule = rule.sender(NAME);
        }
        let rule = rule.build()?;
        let mut stream = MessageStream::for_match_rule(rule, &connection, None).await?;
        let (jobs, _) = broadcast::channel(JOBS);
        let sender = jobs.clone();
        // Reads on while nobody waits: a stream that is not read would hold the whole connection up. Ends with it.
        tokio::spawn(async move {
            while let Some(message) = poll_fn(|cx| Pin::new(&mut stream).poll_next(cx)).await {
                let Ok(message) = message else { continue };
                let body = message.body();
                if let Ok((_, job, _, result)) =
                    body.deserialize::<(u32, OwnedObjectPath, String, String)>()
                {
                    // Nobody waits: nothing lost.
                    let _ = sender.send(Ended {
                        job: job.to_string(),
                        result,
                    });
                }
            }
        });
        let bus = Bus { connection, jobs };
        match bus.raw(ROOT, MANAGER, "Subscribe", &()).await {
            Ok(_) => Ok(bus),
            Err(zbus::Error::MethodError(name, ..)) if name.ends_with(".AlreadySubscribed") => {
                Ok(bus)
            }
            Err(error) => Err(error),
        }
    }

    /// Ends of jobs from now on.
    pub(super) fn jobs(&self) -> broadcast::Receiver<Ended> {
        self.jobs.subscribe()
    }

    /// Ends when the connection does.
    pub(super) async fn closed(&self) {
        self.connection.closed().await;
    }

    async fn raw(
        &self,
        path: &str,
        interface: &str,
        method: &str,
        body: &(impl serde::Serialize + DynamicType),
    ) -> zbus::Result<Message> {
        self.connection
            .call_method(Some(NAME), path, Some(interface), method, body)
            .await
    }

    async fn call(
        &self,
        path: &str,
        interface: &str,
        method: &str,
        body: &(impl serde::Serialize + DynamicType),
    ) -> Result<Message, Lost> {
        let answer = self.raw(path, interface, method, body).await;
        match answer {
            Ok(message) => Ok(message),
            Err(error) => {
                let lost = lost(&error);
                if let Lost::Gone(_) = lost {
                    // The bus may be there without systemd: look at both ways anew.
                    let mut held = HELD.lock().await;
                    if held
                        .as_ref()
                        .is_some_and(|(_, bus)| std::ptr::eq(&raw const **bus, self))
                    {
                        *held = None;
                    }
                }
                Err(lost)
            }
        }
    }

    /// Calls a method of the manager.
    pub(super) async fn manager(
        &self,
        method: &str,
        body: &(impl serde::Serialize + DynamicType),
    ) -> Result<Message, Lost> {
        self.call(ROOT, MANAGER, method, body).await
    }

    /// The properties of an object, those of one interface; of all of them if it is empty.
    pub(super) async fn properties(&self, path: &str, interface: &str) -> Result<Properties, Lost> {
        let answer = self
            .call(
                path,
                "org.freedesktop.DBus.Properties",
                "GetAll",
                &interface,
            )
            .await?;
        decode(&answer)
    }
}

/// The body of an answer.
pub(super) fn decode<T>(message: &Message) -> Result<T, Lost>
where
    T: serde::de::DeserializeOwned + zbus::Type,
{
    message
        .body()
        .deserialize()
        .map_err(|e| Lost::Gone(format!("an answer that is none: {e}")))
}

fn lost(error: &zbus::Error) -> Lost {
    match error {
        zbus::Error::MethodError(name, text, _) => Lost::Refused(
            name.to_string(),
            text.clone().unwrap_or_else(|| name.to_string()),
        ),
        zbus::Error::FDO(inner) => match inner.as_ref() {
            fdo::Error::ServiceUnknown(_)
            | fdo::Error::NameHasNoOwner(_)
            | fdo::Error::NoReply(_)
            | fdo::Error::Disconnected(_)
            | fdo::Error::NoServer(_) => Lost::Gone(inner.to_string()),
            other => Lost::Refused(
                zbus::DBusError::name(other).to_string(),
                zbus::DBusError::description(other)
                    .unwrap_or_default()
                    .to_owned(),
            ),
        },
        other => Lost::Gone(other.to_string()),
    }
}
