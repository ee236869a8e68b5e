//! What the scenarios are played on.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use assent_proto::TxId;
use assent_proto::v1::admin_service_client::AdminServiceClient;
use assent_proto::v1::{self as pb, State};
use assent_sdk::Client;
use serde::Serialize;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::books::Books;
use super::front_door::{self, Ask};
use super::{Audience, Ended, Error, Report, Servers, Service, Store, Told};
use crate::process::{PATIENCE, Process, Spawner};

/// How often a condition is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// What the coordinator of the demo is told beside its flags: it must also start on a small or a full disk, and nobody
/// wants to watch it wait for half a minute before it calls again.
const COORDINATOR_SETTINGS: &str =
    "[storage]\nballast = \"1 MiB\"\nmin_free = \"0 B\"\n[participants]\nretry_max = \"500ms\"\n";

const SCENE_ON_FILES: &str = "Six processes: a coordinator, a shop (order, stock, payment), two banks (north, south); \
    their databases are";
const SCENE_ON_DATABASES: &str = "Two database servers and eight processes: a coordinator; a shop with its orders on \
    PostgreSQL and its stock on MariaDB, each served by one process that takes part by TCC and by one for 2PC, and payment, \
    which keeps a file; two banks (north, south), each with a database on PostgreSQL. Files and logs are";

/// All processes, and the ways to them. When it is dropped they are gone.
pub(super) struct Stage<'a> {
    audience: &'a mut dyn Audience,
    spawner: Spawner,
    coordinator: Coordinator,
    services: BTreeMap<Service, Running>,
    stores: BTreeMap<Service, Store>,
    servers: Option<Servers>,
    pub(super) client: Client,
    admin: AdminServiceClient<Channel>,
    scenarios: usize,
}

struct Coordinator {
    process: Process,
    address: SocketAddr,
}

struct Running {
    process: Process,
    door: SocketAddr,
}

/// What a look at a condition showed.
pub(super) enum Seen<T> {
    Yes(T),
    /// What is there instead.
    NotYet(String),
}

impl<'a> Stage<'a> {
    pub(super) async fn set_up(
        executable: &Path,
        directory: &Path,
        servers: Option<Servers>,
        audience: &'a mut dyn Audience,
    ) -> Result<Stage<'a>, Error> {
        let spawner = Spawner { executable: executable.to_owned(), directory: directory.to_owned() };
        let (cast, scene): (&[Service], _) = match servers {
            None => (&Service::ON_FILES, SCENE_ON_FILES),
            Some(_) => (&Service::ALL, SCENE_ON_DATABASES),
        };
        audience.hear(Told::Step(&format!("{scene} in {}.", directory.display())))?;
        let store = |service: Service| {
            let on_server = servers.as_ref().and_then(|servers| servers.store(service));
            (service, on_server.unwrap_or_else(|| service.file(directory)))
        };
        let stores: BTreeMap<_, _> = cast.iter().copied().map(store).collect();
        std::fs::write(settings(directory), COORDINATOR_SETTINGS)?;
        let coordinator = Coordinator::start(&spawner, "127.0.0.1:0").await?;
        let mut services = BTreeMap::new();
        for (service, store) in &stores {
            let running = Running::start(&spawner, *service, store, &coordinator.url()).await?;
            services.insert(*service, running);
        }
        let client = Client::connect(coordinator.url())?;
        let channel = Channel::from_shared(coordinator.url()).expect("an address makes a URL").connect_lazy();
        let admin = AdminServiceClient::new(channel);
        Ok(Stage { audience, spawner, coordinator, services, stores, servers, client, admin, scenarios: 0 })
    }

    /// Plays one scenario and reports how it ended.
    pub(super) async fn play(
        &mut self,
        name: &'static str,
        title: &str,
        scenario: impl AsyncFnOnce(&mut Stage<'a>) -> Result<Ended, Error>,
    ) -> Result<(), Error> {
        self.scenarios += 1;
        self.audience.hear(Told::Scenario { number: self.scenarios, title })?;
        let start = Instant::now();
        let ended = scenario(self).await;
        let report = Report {
            name,
            duration: start.elapsed(),
            result: ended.as_ref().map(|ended| *ended).map_err(ToString::to_string),
            books: self.books().await.ok(),
        };
        self.audience.hear(Told::Ended(&report))?;
        ended.map(|_| ())
    }

    pub(super) fn say(&mut self, text: &str) -> Result<(), Error> {
        Ok(self.audience.hear(Told::Step(text))?)
    }

    /// Shows what some databases say now.
    pub(super) async fn show(&mut self, services: &[Service]) -> Result<(), Error> {
        let books = self.books().await?;
        for service in services {
            self.audience.hear(Told::Figures(&books.line(*service)))?;
        }
        Ok(())
    }

    /// Shows what the servers of some services hold prepared.
    pub(super) async fn show_prepared(&mut self, services: &[Service]) -> Result<(), Error> {
        for service in services {
            let (view, prepared) = self.stores[service].prepared().await?;
            for what in prepared {
                self.audience.hear(Told::Figures(&format!("{service}: {view} has {what}")))?;
            }
        }
        Ok(())
    }

    pub(super) async fn books(&self) -> Result<Books, Error> {
        Books::read(&self.stores).await
    }

    /// All databases must say this now: whoever is told that a transaction is complete need not wait.
    pub(super) async fn books_are(&self, what: &str, expected: &Books) -> Result<(), Error> {
        let found = self.books().await?;
        if found == *expected {
            return Ok(());
        }
        let [found, expected] = [&found, expected].map(|books| format!("{books:?}"));
        Err(Error::Wrong { what: format!("the databases after {what}"), found, expected })
    }

    /// All databases must come to say this.
    pub(super) async fn books_become(&self, what: &str, expected: &Books) -> Result<(), Error> {
        let seen = async || {
            let books = self.books().await?;
            Ok(if books == *expected { Seen::Yes(()) } else { Seen::NotYet(format!("{books:?}")) })
        };
        self.until(&self.coordinator.process, what, seen).await
    }

    /// The coordinator must come to say this of the transaction.
    pub(super) async fn comes_to(&self, xid: TxId, state: State) -> Result<(), Error> {
        let what = format!("{} of transaction {xid}", state.as_str_name());
        let seen = async || {
            Ok(match self.client.get(xid).await {
                Ok(transaction) if transaction.state() == state => Seen::Yes(()),
                Ok(transaction) => Seen::NotYet(transaction.state().as_str_name().to_owned()),
                // It may be starting.
                Err(assent_sdk::Error::Unavailable(why)) => Seen::NotYet(why),
                Err(error) => return Err(error.into()),
            })
        };
        self.until(&self.coordinator.process, &what, seen).await
    }

    /// The coordinator must come to have nothing open any more.
    pub(super) async fn settled(&self) -> Result<(), Error> {
        let seen = async || {
            let status = self.admin.clone().get_server_status(pb::GetServerStatusRequest {}).await?;
            Ok(match status.into_inner().active_transactions {
                0 => Seen::Yes(()),
                open => Seen::NotYet(format!("{open} open")),
            })
        };
        self.until(&self.coordinator.process, "the end of every transaction", seen).await
    }

    /// Calls a service's front door within a transaction.
    pub(super) async fn ask(
        &self,
        service: Service,
        xid: TxId,
        request: &impl Serialize,
    ) -> Result<(), Error> {
        let ask = Ask {
            xid: xid.to_string(),
            branch: service.name().to_owned(),
            ttl_ms: None,
            request: serde_json::to_value(request).expect("the demo's own requests can be written"),
        };
        front_door::call(self.services[&service].door, &ask).await?;
        Ok(())
    }

    /// Has the coordinator hold back its calls to a service until it restarts.
    pub(super) async fn pause(&self, service: Service) -> Result<(), Error> {
        let request = pb::PauseRequest { participant: service.participant().to_owned() };
        self.admin.clone().pause(request).await?;
        Ok(())
    }

    pub(super) fn process(&self, service: Service) -> &Process {
        &self.services[&service].process
    }

    pub(super) fn kill_coordinator(&mut self) {
        self.coordinator.process.kill();
    }

    /// Kills the database servers.
    pub(super) fn crash_servers(&mut self) -> Result<(), Error> {
        self.servers.as_mut().map_or(Ok(()), Servers::crash)
    }

    pub(super) fn restart_servers(&mut self) -> Result<(), Error> {
        self.servers.as_mut().map_or(Ok(()), Servers::restart)
    }

    /// To be found beside the others.
    pub(super) fn write_server_logs(&self) -> Result<(), Error> {
        Ok(self.servers.as_ref().map_or(Ok(()), |servers| servers.write_logs(&self.spawner.directory))?)
    }

    /// On the same directory and the same port.
    pub(super) async fn restart_coordinator(&mut self) -> Result<(), Error> {
        let address = self.coordinator.address.to_string();
        self.coordinator = Coordinator::start(&self.spawner, &address).await?;
        Ok(())
    }

    /// Starts the initiator that will be killed, and answers its transaction once it has reserved.
    pub(super) async fn start_initiator(&self) -> Result<(Process, TxId), Error> {
        let url = self.coordinator.url();
        let door = self.services[&Service::Stock].door.to_string();
        let (process, xid) =
            self.spawner.spawn("initiator", ["demo", "initiator", "--server", &url, &door]).await?;
        let parsed =
            xid.parse().map_err(|error| process.not_seen(format!("the initiator's xid ({error})")))?;
        Ok((process, parsed))
    }

    /// Waits until a service has found that the coordinator cannot be reached, after `log_before`.
    pub(super) async fn misses_coordinator(&self, service: Service, log_before: usize) -> Result<(), Error> {
        let process = self.process(service);
        let seen = async || {
            let log = process.log();
            let since = log.get(log_before..).unwrap_or_default();
            let missed = since.contains("no session with the coordinator");
            Ok(if missed { Seen::Yes(()) } else { Seen::NotYet("no such line in its log".to_owned()) })
        };
        self.until(process, &format!("{service} dialling the coordinator in vain"), seen).await
    }

    async fn until<T>(
        &self,
        process: &Process,
        what: &str,
        mut look: impl AsyncFnMut() -> Result<Seen<T>, Error>,
    ) -> Result<T, Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match look().await? {
                Seen::Yes(seen) => return Ok(seen),
                Seen::NotYet(instead) if Instant::now() > deadline => {
                    return Err(process.not_seen(format!("{what} (instead: {instead})")).into());
                }
                Seen::NotYet(_) => tokio::time::sleep(LOOK_INTERVAL).await,
            }
        }
    }
}

impl Coordinator {
    async fn start(spawner: &Spawner, listen: &str) -> Result<Coordinator, Error> {
        let (settings, data) = (settings(&spawner.directory), spawner.directory.join("coordinator"));
        let arguments: [&std::ffi::OsStr; 7] = [
            "--config".as_ref(),
            settings.as_ref(),
            "serve".as_ref(),
            "--listen".as_ref(),
            listen.as_ref(),
            "--data-dir".as_ref(),
            data.as_ref(),
        ];
        let (process, line) = spawner.spawn("coordinator", arguments).await?;
        let address = line.strip_prefix("listening on http://").and_then(|address| address.parse().ok());
        let address = address.ok_or_else(|| process.not_seen(format!("an address (instead: {line:?})")))?;
        Ok(Coordinator { process, address })
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Running {
    async fn start(
        spawner: &Spawner,
        service: Service,
        store: &Store,
        coordinator: &str,
    ) -> Result<Running, Error> {
        let arguments: [&std::ffi::OsStr; 6] = [
            "demo".as_ref(),
            "participant".as_ref(),
            "--server".as_ref(),
            coordinator.as_ref(),
            service.name().as_ref(),
            store.as_os_str(),
        ];
        let (process, door) = spawner.spawn(service.name(), arguments).await?;
        let parsed =
            door.parse().map_err(|_| process.not_seen(format!("a front door (instead: {door:?})")))?;
        Ok(Running { process, door: parsed })
    }
}

fn settings(directory: &Path) -> PathBuf {
    directory.join("coordinator.toml")
}
