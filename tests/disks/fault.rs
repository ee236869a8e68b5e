//! A disk that fails at the n-th call of a kind: what `fault.c` does, for processes that are started so.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Of Linux.
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// What fails, and how.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub calls: &'static str,
    errno: i32,
    on: bool,
}

/// Each way in which a disk fails here.
pub const FAULTS: [Fault; 7] = [
    Fault { calls: "write", errno: ENOSPC, on: true },
    Fault { calls: "write", errno: ENOSPC, on: false },
    Fault { calls: "write", errno: EIO, on: true },
    Fault { calls: "write", errno: EIO, on: false },
    // A write that goes half the way.
    Fault { calls: "write", errno: 0, on: false },
    Fault { calls: "sync", errno: EIO, on: true },
    // The kernel tells of it once, and forgets that the data is not there.
    Fault { calls: "sync", errno: EIO, on: false },
];

/// Which calls are to fail: all, where `ASSENT_TEST_FAULTS=all` asks for that; else the first `dense`, and then ever fewer.
pub fn wanted(dense: u64) -> impl Iterator<Item = u64> {
    let all = std::env::var_os("ASSENT_TEST_FAULTS").is_some_and(|which| which == "all");
    std::iter::successors(Some(1_u64), move |at| {
        Some(if all { at + 1 } else { at + 1 + at.saturating_sub(dense) / 2 })
    })
}

impl Fault {
    /// A write that goes half the way is gone on with, and nobody sees anything of it.
    pub fn is_harmless(self) -> bool {
        self.errno == 0
    }

    /// What a process has to be started with, to meet this at the `at`-th call on a file below `dir`. `hit` is a file that is
    /// there once it did.
    pub fn environment(self, dir: &Path, at: u64, hit: &Path) -> Vec<(&'static str, OsString)> {
        // The kernel tells paths without links.
        let dir = dir.canonicalize().unwrap();
        vec![
            ("LD_PRELOAD", library().into()),
            ("DISK_FAULT_DIR", dir.into()),
            ("DISK_FAULT_CALLS", self.calls.into()),
            ("DISK_FAULT_AT", at.to_string().into()),
            ("DISK_FAULT_ERRNO", self.errno.to_string().into()),
            ("DISK_FAULT_ON", if self.on { "1" } else { "0" }.into()),
            ("DISK_FAULT_HIT", hit.into()),
        ]
    }
}

/// The library, compiled once for this process.
fn library() -> PathBuf {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        let library =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("fault-{}.so", std::process::id()));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/disks/fault.c");
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let compiled = Command::new(compiler)
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(&library)
            .arg(source)
            .arg("-ldl")
            .status()
            .unwrap();
        assert!(compiled.success(), "{source} does not compile");
        library
    };
    LIBRARY.get_or_init(make).clone()
}
