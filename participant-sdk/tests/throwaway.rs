//! Servers that go away: they keep what they were told, whoever kills them, and nothing of them stays.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the message")]

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use assent_sdk::throwaway::{Error, Server};

/// Far longer than anything here takes.
const BOUND: Duration = Duration::from_mins(2);
/// Says to this very test program that it is to own servers.
const OWNER: &str = "ASSENT_TEST_OWNER";

#[test]
fn a_postgres_keeps_what_it_was_told_through_a_kill() {
    let mut server = Server::postgres(&[]).unwrap();
    let url = server.url();
    psql(&server, "create table told (number int)");
    psql(&server, "insert into told values (1)");
    psql(&server, "begin; insert into told values (2); prepare transaction 'two'");

    server.kill9().unwrap();
    assert!(!asked_psql(&server, "select 1").status.success(), "it still answers");
    server.restart().unwrap();

    assert_eq!(server.url(), url);
    assert_eq!(psql(&server, "select number from told"), "1");
    assert_eq!(psql(&server, "select gid from pg_prepared_xacts"), "two");
    psql(&server, "commit prepared 'two'");
    assert_eq!(psql(&server, "select count(*) from told"), "2");
    assert_eq!(psql(&server, "show fsync"), "on");
    let starts = server.log().matches("ready to accept connections").count();
    assert_eq!(starts, 2, "its log is of both lives:\n{}", server.log());
}

#[test]
fn a_maria_db_keeps_what_it_was_told_through_a_kill() {
    let mut server = Server::maria_db(&[]).unwrap();
    let url = server.url();
    mariadb(&server, "create table told (number int) engine=InnoDB");
    mariadb(&server, "insert into told values (1)");
    mariadb(&server, "xa start 'two'; insert into told values (2); xa end 'two'; xa prepare 'two'");

    server.kill9().unwrap();
    assert!(!asked_mariadb(&server, "select 1").status.success(), "it still answers");
    server.restart().unwrap();

    assert_eq!(server.url(), url);
    assert_eq!(mariadb(&server, "select number from told"), "1");
    assert_eq!(mariadb(&server, "xa recover").split('\t').next_back(), Some("two"));
    mariadb(&server, "xa commit 'two'");
    assert_eq!(mariadb(&server, "select count(*) from told"), "2");
    assert_eq!(mariadb(&server, "select @@innodb_flush_log_at_trx_commit"), "1");
    let starts = server.log().matches("ready for connections").count();
    assert_eq!(starts, 2, "its log is of both lives:\n{}", server.log());
}

#[test]
fn settings_arrive_as_they_were_given() {
    let name = r#"it's "$HOME" \ `here`"#;
    let postgres = Server::postgres(&[("cluster_name", name), ("max_prepared_transactions", "7")]).unwrap();
    assert_eq!(psql(&postgres, "show cluster_name"), name);
    assert_eq!(psql(&postgres, "show max_prepared_transactions"), "7");

    let maria_db = Server::maria_db(&[("init_connect", "set @name = 'x y'"), ("sync_binlog", "1")]).unwrap();
    assert_eq!(mariadb(&maria_db, "select @@init_connect, @@sync_binlog"), "set @name = 'x y'\t1");
}

#[test]
fn each_database_of_a_server_has_its_url() {
    let postgres = Server::postgres(&[]).unwrap();
    psql(&postgres, "create database shop");
    let shop = postgres.database_url("shop");
    assert_eq!(said(&run_psql(&shop, "select current_database()")), "shop");

    let maria_db = Server::maria_db(&[]).unwrap();
    assert_eq!(maria_db.url(), format!("mysql://root@127.0.0.1:{}/test", maria_db.port()));
    assert_eq!(maria_db.database_url("shop"), format!("mysql://root@127.0.0.1:{}/shop", maria_db.port()));
}

#[test]
fn a_server_that_does_not_start_says_why() {
    let postgres = Server::postgres(&[("no_such_setting", "1")]).unwrap_err();
    assert!(postgres.to_string().contains("unrecognized configuration parameter"), "{postgres}");
    let maria_db = Server::maria_db(&[("no_such_setting", "1")]).unwrap_err();
    assert!(maria_db.to_string().contains("unknown variable 'no_such_setting=1'"), "{maria_db}");
    let in_two_lines = Server::postgres(&[("cluster_name", "one\ntwo")]).unwrap_err();
    assert!(matches!(in_two_lines, Error::Io(_)), "{in_two_lines}");
}

#[test]
fn a_restart_waits_for_its_port() {
    for mut server in [Server::postgres(&[]).unwrap(), Server::maria_db(&[]).unwrap()] {
        server.kill9().unwrap();
        let holder = TcpListener::bind(("127.0.0.1", server.port())).unwrap();
        let log = server.directory().join("log");
        scope(|scope| {
            let restarted = scope.spawn(|| server.restart());
            until("it found the port taken", || {
                restarted.is_finished()
                    || fs::read_to_string(&log).unwrap().contains("Address already in use")
            });
            drop(holder);
            restarted.join().unwrap().unwrap();
        });
    }
}

#[test]
fn a_kill_ends_a_backend_that_looks_at_nothing() {
    let name = format!("assent-test-{}-busy", std::process::id());
    let mut server = Server::postgres(&[("cluster_name", &name)]).unwrap();
    let loops = "do $$ begin loop end loop; end $$";
    let mut client = Command::new("psql");
    let client = client.args([&server.url(), "-c", loops]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut client = client.spawn().unwrap();
    until("the backend works", || {
        psql(&server, "select count(*) from pg_stat_activity where query like 'do %' and state = 'active'")
            == "1"
    });
    assert!(processes(&name).len() > 2, "{:?}", processes(&name));

    server.kill9().unwrap();
    assert_eq!(processes(&name), BTreeMap::new());
    client.wait().unwrap();
    server.restart().unwrap();
    assert_eq!(psql(&server, "select 1"), "1");
}

#[test]
fn nothing_is_left_of_a_server_that_is_dropped() {
    let name = format!("assent-test-{}-dropped", std::process::id());
    let start = || Server::postgres(&[("cluster_name", &name)]).unwrap();
    let running = start();
    let mut killed = start();
    killed.kill9().unwrap();
    for server in [running, killed] {
        let directory = server.directory().to_owned();
        let segment = shared_memory(&directory);
        assert!(segments().contains(&segment));
        drop(server);
        assert!(!directory.exists());
        assert!(!segments().contains(&segment), "its shared memory is still there");
    }
    assert_eq!(processes(&name), BTreeMap::new());

    let server = Server::maria_db(&[]).unwrap();
    let directory = server.directory().to_owned();
    assert_eq!(processes(directory.to_str().unwrap()).len(), 1);
    drop(server);
    assert!(!directory.exists());
    assert_eq!(processes(directory.to_str().unwrap()), BTreeMap::new());
}

#[test]
fn a_directory_for_temporary_files_that_is_the_owners_alone_will_do() {
    // Where we are root, the servers are somebody else's.
    let mut owner = Owner::start(0o700);
    owner.hear_that_it_has_servers();
}

#[test]
fn nothing_is_left_of_an_owner_that_was_killed() {
    let mut owner = Owner::start(0o1777);
    owner.wait_for_its_servers();
    let segments_of_its: Vec<_> = owner.directories().iter().map(|path| shared_memory(path)).collect();
    let postgres = segments_of_its.iter().find(|segment| !segment.is_empty()).unwrap();
    owner.process.kill().unwrap();
    owner.wait_until_nothing_is_left();
    assert!(!segments().contains(postgres), "its shared memory is still there");
}

#[test]
fn nothing_is_left_of_an_owner_that_was_killed_while_it_made_its_first_server() {
    let mut owner = Owner::start(0o1777);
    until("initdb writes", || owner.directories().iter().any(|path| path.join("data/base").exists()));
    owner.process.kill().unwrap();
    owner.wait_until_nothing_is_left();
}

/// When a process ends, the kernel hangs up on groups that it leaves behind with a stopped process in them.
#[test]
fn nothing_is_left_of_an_owner_whose_servers_were_stopped() {
    let mut owner = Owner::start(0o1777);
    owner.wait_for_its_servers();
    for pid in processes(owner.name()).keys() {
        assert!(Command::new("kill").args(["-STOP", pid]).status().unwrap().success());
    }
    owner.process.kill().unwrap();
    owner.wait_until_nothing_is_left();
}

#[test]
fn nothing_is_left_when_an_interrupt_comes_from_the_terminal() {
    let mut owner = Owner::start(0o1777);
    owner.wait_for_its_servers();
    // What the terminal does: all of the foreground's processes get it.
    let group = format!("-{}", owner.process.id());
    assert!(Command::new("kill").args(["-INT", "--", &group]).status().unwrap().success());
    owner.wait_until_nothing_is_left();
}

/// Owns two servers when told to; as a test of its own it has nothing to show.
#[test]
fn owner_process() {
    if std::env::var_os(OWNER).is_none() {
        return;
    }
    let servers = [Server::postgres(&[]).unwrap(), Server::maria_db(&[]).unwrap()];
    report("they are up");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    drop(servers);
}

/// Another process that owns servers, with a directory of its own for temporary files.
struct Owner {
    process: Child,
    temporary: tempfile::TempDir,
}

impl Owner {
    /// The mode is that of its directory: with 1777 its servers live there, whoever they run as.
    fn start(mode: u32) -> Owner {
        let temporary = tempfile::Builder::new().prefix("assent-test-owner-").tempdir().unwrap();
        fs::set_permissions(temporary.path(), Permissions::from_mode(mode)).unwrap();
        let process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "owner_process", "--nocapture"])
            .env(OWNER, "1")
            .env("TMPDIR", temporary.path())
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Owner { process, temporary }
    }

    fn hear_that_it_has_servers(&mut self) {
        let said = BufReader::new(self.process.stderr.take().unwrap());
        let mut lines = said.lines().map(Result::unwrap);
        assert!(lines.any(|line| line == "they are up"), "it ended");
    }

    fn wait_for_its_servers(&mut self) {
        self.hear_that_it_has_servers();
        // Two servers, and for each what it was copied from.
        assert_eq!(self.directories().len(), 4);
        // Of PostgreSQL the postmaster only: its children do not name the directory.
        assert_eq!(processes(self.name()).len(), 2);
    }

    /// What all of its processes name.
    fn name(&self) -> &str {
        self.temporary.path().to_str().unwrap()
    }

    fn directories(&self) -> Vec<std::path::PathBuf> {
        fs::read_dir(self.temporary.path()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    fn wait_until_nothing_is_left(&mut self) {
        self.process.wait().unwrap();
        until("its processes are gone", || processes(self.name()).is_empty());
        until("its directories are gone", || self.directories().is_empty());
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// All processes that name this: their ids and command lines.
fn processes(name: &str) -> BTreeMap<String, String> {
    let entries = fs::read_dir("/proc").unwrap().map(Result::unwrap);
    let processes = entries.filter_map(|entry| {
        // It may have ended meanwhile, or be no process at all.
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        Some((entry.file_name().into_string().unwrap(), line))
    });
    processes.filter(|(_, line)| line.contains(name)).collect()
}

/// The id of the System V shared memory of the PostgreSQL in this directory; nothing where there is no such server.
fn shared_memory(directory: &Path) -> String {
    let written = fs::read_to_string(directory.join("data/postmaster.pid")).unwrap_or_default();
    let line = written.lines().nth(6).unwrap_or_default();
    line.split_whitespace().nth(1).unwrap_or_default().to_owned()
}

/// The ids of all System V shared memory of this machine.
fn segments() -> Vec<String> {
    let table = fs::read_to_string("/proc/sysvipc/shm").unwrap();
    let ids = table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1));
    ids.map(str::to_owned).collect()
}

fn psql(server: &Server, sql: &str) -> String {
    said(&asked_psql(server, sql))
}

fn asked_psql(server: &Server, sql: &str) -> std::process::Output {
    run_psql(&server.url(), sql)
}

fn run_psql(url: &str, sql: &str) -> std::process::Output {
    Command::new("psql").args([url, "-XAtqc", sql]).output().unwrap()
}

fn mariadb(server: &Server, sql: &str) -> String {
    said(&asked_mariadb(server, sql))
}

fn asked_mariadb(server: &Server, sql: &str) -> std::process::Output {
    let port = server.port().to_string();
    let to = ["--no-defaults", "--host=127.0.0.1", "--user=root", "--port", &port, "test"];
    Command::new("mariadb").args(to).args(["--raw", "--batch", "-N", "-e", sql]).output().unwrap()
}

fn said(output: &std::process::Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// Looks again and again until it holds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < BOUND, "{what}: not within {BOUND:?}");
        sleep(Duration::from_millis(5));
    }
}

#[expect(clippy::print_stderr, reason = "who started this process reads it")]
fn report(text: &str) {
    eprintln!("{text}");
}
