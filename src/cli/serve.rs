//! `assent serve`

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::fmt::MakeWriter;

use super::output::Paint;
use super::{Exit, Failure, Global, SettingFlags};
use crate::config::{self, Flag, LogFormat, LogSettings, Settings};
use crate::server::{self, ServeError, Shutdown};

#[derive(Debug, Args)]
pub struct Serve {
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Where the decision log is
    #[arg(long, value_name = "PATH")]
    data_dir: Option<String>,
    /// To try things out: temporary data, removed at exit, and a free port on this machine
    #[arg(long, conflicts_with = "data_dir")]
    dev: bool,
    #[command(flatten)]
    settings: SettingFlags,
}

impl Serve {
    pub fn run(self, global: &Global) -> Result<Exit, Failure> {
        let temporary =
            self.dev.then(|| tempfile::Builder::new().prefix("assent-dev-").tempdir()).transpose()?;
        let settings = config::load(&global.sources(self.flags(temporary.as_ref())))?.settings;
        start_log(&settings.log, io::stderr);
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.worker_threads(worker_threads()).enable_all().build()?.block_on(serve(settings, temporary))
    }

    /// The flags as settings. Those of `--dev` come first, so that an explicit one beats them.
    fn flags(self, temporary: Option<&TempDir>) -> Vec<Flag> {
        let flag = |flag: &str, key: &str, value: String| Flag { flag: flag.into(), key: key.into(), value };
        let mut flags = Vec::new();
        if let Some(directory) = temporary {
            flags.push(flag("--dev", "storage.data_dir", directory.path().display().to_string()));
            flags.push(flag("--dev", "server.listen", "127.0.0.1:0".to_owned()));
        }
        flags.extend(self.settings.set);
        flags.extend(self.listen.map(|listen| flag("--listen", "server.listen", listen.to_string())));
        flags.extend(self.data_dir.map(|path| flag("--data-dir", "storage.data_dir", path)));
        flags
    }
}

/// Half of the processors: one task owns the engine and one thread the log, so what more workers do most is to wake each
/// other, which takes longer than what they would do then. (`TOKIO_WORKER_THREADS` beats this.)
fn worker_threads() -> usize {
    let asked = std::env::var("TOKIO_WORKER_THREADS").ok().and_then(|threads| threads.parse().ok());
    let half = || std::thread::available_parallelism().map_or(1, |processors| processors.get().div_ceil(2));
    asked.filter(|threads| *threads > 0).unwrap_or_else(half)
}

async fn serve(settings: Settings, temporary: Option<TempDir>) -> Result<Exit, Failure> {
    let listen = settings.server.listen;
    let listener = TcpListener::bind(listen).await.map_err(|error| {
        Failure::new(Exit::Error, format!("cannot listen on {listen}: {error}"))
            .with_hint("choose another address with --listen or server.listen")
    })?;
    // Before anybody is told where we are: whoever reads that may send a signal at once.
    let shutdown = shutdown_on_signals(temporary.as_ref().map(|directory| directory.path().to_owned()))?;

    let address = listener.local_addr()?;
    say(&format!("listening on http://{address}"));
    match &temporary {
        Some(directory) => say(&format!("data in {}, removed at exit", directory.path().display())),
        None => {
            tracing::info!(data_dir = %settings.storage.data_dir.display(), "listening on http://{address}");
        }
    }

    let result = server::serve(Arc::new(settings), listener, shutdown).await;
    let removed = temporary.map_or(Ok(()), TempDir::close);
    result.map_err(|error| failure(&error))?;
    removed?;
    Ok(Exit::Ok)
}

fn failure(error: &ServeError) -> Failure {
    let failure = Failure::new(Exit::Error, error.to_string());
    match error {
        ServeError::Replay(_) => failure.with_hint("`assent log verify` says whether that is all"),
        ServeError::Open(_)
        | ServeError::Driver(_)
        | ServeError::Server(_)
        | ServeError::Thread(_)
        | ServeError::Endpoint { .. }
        | ServeError::Panicked(_) => failure,
    }
}

/// Completes at the first SIGTERM or SIGINT; at the second, the process is gone.
fn shutdown_on_signals(temporary: Option<PathBuf>) -> io::Result<Shutdown> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut next = async move || {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    let (drain, draining) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let first = next().await;
        tracing::info!(signal = first, "draining; a second signal exits at once");
        // A server that has already ended needs no telling.
        let _ = drain.send(());
        let second = next().await;
        tracing::warn!(signal = second, "exiting at once; the next start finishes what is left");
        if let Some(directory) = temporary {
            let _ = std::fs::remove_dir_all(directory);
        }
        std::process::exit(Exit::Error.code().into());
    });
    Ok(Box::pin(async move {
        let _ = draining.await;
    }))
}

/// Tells the script or the person that waits for the address.
fn say(line: &str) {
    let mut stdout = io::stdout().lock();
    // A daemon goes on when nobody reads its standard output any more.
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

fn start_log(log: &LogSettings, to: impl for<'a> MakeWriter<'a> + Send + Sync + 'static) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(log.filter.to_env_filter())
        .with_ansi(Paint::for_stderr().is_coloured())
        .with_writer(to);
    match log.format {
        LogFormat::Pretty => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::config::{Loaded, Sources};

    fn load(arguments: &[&str], temporary: Option<&TempDir>) -> Loaded {
        let cli = Cli::try_parse_from([&["assent", "serve"], arguments].concat()).unwrap();
        let Command::Serve(serve) = cli.command else { panic!("it is not `serve`") };
        config::load(&Sources { flags: serve.flags(temporary), ..Sources::default() }).unwrap()
    }

    #[test]
    fn flags_set_what_they_are_named_after() {
        let loaded = load(&["--listen", "[::1]:1", "--data-dir", "/d", "--set", "log.format=json"], None);
        assert_eq!(loaded.settings.server.listen, "[::1]:1".parse().unwrap());
        assert_eq!(loaded.settings.storage.data_dir, PathBuf::from("/d"));
        assert_eq!(loaded.settings.log.format, LogFormat::Json);
        assert_eq!(loaded.origin_of("server.listen").unwrap().to_string(), "flag --listen");
    }

    #[test]
    fn dev_is_temporary_and_on_a_free_port_unless_told_otherwise() {
        let directory = tempfile::tempdir().unwrap();
        let loaded = load(&["--dev"], Some(&directory));
        assert_eq!(loaded.settings.server.listen, "127.0.0.1:0".parse().unwrap());
        assert_eq!(loaded.settings.storage.data_dir, directory.path());
        let loaded = load(&["--dev", "--listen", "127.0.0.1:7"], Some(&directory));
        assert_eq!(loaded.settings.server.listen, "127.0.0.1:7".parse().unwrap());
    }
}
