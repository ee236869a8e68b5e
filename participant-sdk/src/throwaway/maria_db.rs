use std::ffi::OsString;
use std::path::Path;
use std::sync::Mutex;

use super::keeper::Keeper;
use super::programs::Places;
use super::{Error, Kind};

const PACKAGE: &str = "mariadb-server";

/// Both for filling the data directory and for serving: a small log of the storage engine.
const LOG_FILE_SIZE: &str = "--innodb_log_file_size=16M";

/// What differs from what MariaDB does by itself. All of it may be set otherwise.
const SETTINGS: [(&str, &str); 6] = [
    ("bind_address", "127.0.0.1"),
    ("skip_name_resolve", "1"),
    ("max_connections", "300"),
    ("innodb_buffer_pool_size", "32M"),
    ("innodb_flush_log_at_trx_commit", "1"),
    ("character_set_server", "utf8mb4"),
];

#[derive(Debug)]
pub struct MariaDb;

impl Kind for MariaDb {
    fn users(&self) -> &'static [&'static str] {
        &["mysql", "nobody"]
    }

    fn pristine(&self) -> &'static Mutex<Option<Keeper>> {
        static PRISTINE: Mutex<Option<Keeper>> = Mutex::new(None);
        &PRISTINE
    }

    fn install(&self, places: &Places, directory: &Path) -> Result<Vec<OsString>, Error> {
        let fixed =
            ["--auth-root-authentication-method=normal", "--innodb_flush_method=nosync", LOG_FILE_SIZE];
        let mut command = vec![places.find("mariadb-install-db", PACKAGE)?, "--no-defaults".into()];
        command.push(assigned("--datadir", &directory.join("data")));
        // Whoever it runs as may not write where TMPDIR is.
        command.push(assigned("--tmpdir", directory));
        command.extend(fixed.map(OsString::from));
        Ok(command)
    }

    fn serve(&self, places: &Places, directory: &Path, port: u16) -> Result<Vec<OsString>, Error> {
        // The first of all: nothing of /etc is read.
        let mut command =
            vec![places.find("mariadbd", PACKAGE)?, "--no-defaults".into(), LOG_FILE_SIZE.into()];
        command.push(assigned("--datadir", &directory.join("data")));
        command.push(assigned("--tmpdir", directory));
        // Relative to the data, as the path of a socket has a hundred bytes only.
        command.extend(["--socket=socket", "--pid_file=pid"].map(OsString::from));
        command.push(format!("--port={port}").into());
        command.extend(SETTINGS.iter().flat_map(|(name, value)| self.setting(name, value)));
        Ok(command)
    }

    fn setting(&self, name: &str, value: &str) -> Vec<OsString> {
        vec![format!("--{name}={value}").into()]
    }

    fn is_ready(&self, directory: &Path, pid: &str) -> bool {
        // It writes this when it listens.
        let said = std::fs::read_to_string(directory.join("data/pid"));
        said.is_ok_and(|said| said.trim_end() == pid)
    }

    fn url(&self, port: u16, database: Option<&str>) -> String {
        format!("mysql://root@127.0.0.1:{port}/{}", database.unwrap_or("test"))
    }
}

fn assigned(option: &str, path: &Path) -> OsString {
    let mut assigned = OsString::from(option);
    assigned.push("=");
    assigned.push(path);
    assigned
}
