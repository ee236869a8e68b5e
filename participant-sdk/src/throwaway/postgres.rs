use std::ffi::OsString;
use std::path::Path;
use std::sync::Mutex;

use super::keeper::Keeper;
use super::programs::Places;
use super::{Error, Kind};

const PACKAGE: &str = "postgresql";

/// What differs from what PostgreSQL does by itself. All of it may be set otherwise.
const SETTINGS: [(&str, &str); 7] = [
    ("listen_addresses", "127.0.0.1"),
    ("unix_socket_directories", ""),
    ("max_prepared_transactions", "256"),
    ("max_connections", "200"),
    ("shared_buffers", "32MB"),
    ("fsync", "on"),
    // In the data directory, so that it goes with it however the server ends.
    ("dynamic_shared_memory_type", "mmap"),
];

#[derive(Debug)]
pub struct Postgres;

impl Kind for Postgres {
    fn users(&self) -> &'static [&'static str] {
        &["postgres", "nobody"]
    }

    fn pristine(&self) -> &'static Mutex<Option<Keeper>> {
        static PRISTINE: Mutex<Option<Keeper>> = Mutex::new(None);
        &PRISTINE
    }

    fn install(&self, places: &Places, directory: &Path) -> Result<Vec<OsString>, Error> {
        let fixed = ["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C"];
        let mut command = vec![places.find("initdb", PACKAGE)?, "-D".into(), directory.join("data").into()];
        command.extend(fixed.map(OsString::from));
        Ok(command)
    }

    fn serve(&self, places: &Places, directory: &Path, port: u16) -> Result<Vec<OsString>, Error> {
        let mut command = vec![places.find("postgres", PACKAGE)?, "-D".into(), directory.join("data").into()];
        command.extend(["-p".into(), port.to_string().into()]);
        command.extend(SETTINGS.iter().flat_map(|(name, value)| self.setting(name, value)));
        Ok(command)
    }

    fn setting(&self, name: &str, value: &str) -> Vec<OsString> {
        vec!["-c".into(), format!("{name}={value}").into()]
    }

    fn is_ready(&self, directory: &Path, pid: &str) -> bool {
        // What `pg_ctl --wait` looks at, too: the process id comes first, the state last.
        let said = std::fs::read_to_string(directory.join("data/postmaster.pid")).unwrap_or_default();
        let mut lines = said.lines().map(str::trim_end);
        lines.next() == Some(pid) && lines.next_back() == Some("ready")
    }

    fn url(&self, port: u16, database: Option<&str>) -> String {
        format!("postgres://postgres@127.0.0.1:{port}/{}", database.unwrap_or("postgres"))
    }
}
