//! Crash points: places where a process can be made to die at once, for tests.
//!
//! With the feature `failpoints`, `ASSENT_CRASH_AT=name:n` has the process kill itself (SIGKILL: nothing is unwound, flushed or
//! closed) when it passes the point of that name for the `n`th time; without `:n`, the first time. Without the feature there
//! is no code of it at all.
//!
//! The crate `fail` does something like it, and much that is not wanted here: it has no action that kills, its names are
//! looked up in a table behind a lock, and its pauses block a thread of the runtime. This is thirty lines.

#[cfg(feature = "failpoints")]
use std::sync::LazyLock;
#[cfg(feature = "failpoints")]
use std::sync::atomic::{AtomicU64, Ordering};

/// Where this process is to die: `name` or `name:n`.
#[cfg(feature = "failpoints")]
pub const CRASH_AT: &str = "ASSENT_CRASH_AT";

/// Names a place; see the [module](crate::crash). With `if`, only passings for which that holds count.
#[cfg(feature = "failpoints")]
#[macro_export]
#[doc(hidden)]
macro_rules! crash_point {
    ($name:literal) => {
        $crate::crash::pass($name, || true)
    };
    ($name:literal, if $counts:expr) => {
        $crate::crash::pass($name, || $counts)
    };
}

/// Nothing.
#[cfg(not(feature = "failpoints"))]
#[macro_export]
#[doc(hidden)]
macro_rules! crash_point {
    ($name:literal) => {};
    ($name:literal, if $counts:expr) => {};
}

#[cfg(feature = "failpoints")]
struct Crash {
    name: String,
    /// The passing that is the last.
    at: u64,
    passed: AtomicU64,
}

#[cfg(feature = "failpoints")]
static CRASH: LazyLock<Option<Crash>> = LazyLock::new(|| {
    let text = std::env::var(CRASH_AT).ok()?;
    let (name, at) = text.split_once(':').unwrap_or((&text, "1"));
    let at = at.parse().ok().filter(|at| *at > 0);
    let at =
        at.unwrap_or_else(|| panic!("{CRASH_AT} is {text:?}; it must be a name, or name:n with n from 1 on"));
    Some(Crash { name: name.to_owned(), at, passed: AtomicU64::new(0) })
});

/// Passes a point.
#[cfg(feature = "failpoints")]
pub fn pass(name: &str, counts: impl FnOnce() -> bool) {
    if let Some(crash) = &*CRASH
        && crash.name == name
        && counts()
        && crash.passed.fetch_add(1, Ordering::Relaxed) + 1 == crash.at
    {
        die(crash);
    }
}

#[cfg(feature = "failpoints")]
fn die(crash: &Crash) -> ! {
    use std::io::Write as _;

    // For the test that looks where it died. Whether anybody reads it changes nothing.
    let _ = writeln!(std::io::stderr(), "crash point {}, passing {}: dying", crash.name, crash.at);
    let killed = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    killed.expect("a process may kill itself");
    // The signal ends all threads; this one does not go on until it has.
    loop {
        std::thread::park();
    }
}
