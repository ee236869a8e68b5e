//! A disk whose power can be cut: a file system in a file, mounted by a loop device.
//!
//! Shutting it down without flushing its log (`FS_IOC_SHUTDOWN`, by `xfs_io`) leaves on it what was synced, and of the rest what
//! the kernel happened to have written by then. Mounting it again replays its journal, as after a power cut. What it does not show
//! is a disk that loses what it said it had on its platters.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// XFS takes no less.
const SIZE: &str = "300M";
/// How long a mount may be busy with processes that have just been killed.
const BUSY: Duration = Duration::from_secs(20);
const PREFIX: &str = "assent-test-disk-";

/// It is unmounted, and its loop device is free, when this is dropped. Whoever has files on it is to be gone by then.
#[derive(Debug)]
pub struct Disk {
    directory: TempDir,
    mounted: bool,
}

impl Disk {
    /// A new one. `None`: there can be none here, and it has been said why.
    pub fn new(file_system: &str) -> Option<Disk> {
        free_those_of_the_dead();
        match Disk::make(file_system) {
            Ok(disk) => Some(disk),
            Err(why) => {
                // Past the test runner, which shows nothing of tests that pass.
                let _ = writeln!(
                    std::io::stderr(),
                    "\nSKIPPED: no power is cut on {file_system}: {why}\n(it takes root, loop devices, e2fsprogs and xfsprogs)"
                );
                None
            }
        }
    }

    fn make(file_system: &str) -> Result<Disk, String> {
        let name = format!("{PREFIX}{}-", std::process::id());
        let directory =
            tempfile::Builder::new().prefix(&name).tempdir().map_err(|error| error.to_string())?;
        let mut disk = Disk { directory, mounted: false };
        fs::create_dir(disk.path()).map_err(|error| error.to_string())?;
        let image = disk.image();
        run("truncate", &["-s", SIZE, &text(&image)])?;
        run(&format!("mkfs.{file_system}"), &["-q", &text(&image)])?;
        run("xfs_io", &["-V"])?;
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("mount")
    }

    /// From now on nothing reaches it, and whatever it is asked fails.
    pub fn cut_power(&self) {
        run("xfs_io", &["-x", "-c", "shutdown", &text(&self.path())]).unwrap();
    }

    /// As after the power is back. Nobody may have files on it any more.
    pub fn mount_again(&mut self) {
        self.unmount().unwrap();
        self.mount().unwrap();
    }

    fn mount(&mut self) -> Result<(), String> {
        run("mount", &["-o", "loop", &text(&self.image()), &text(&self.path())])?;
        self.mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> Result<(), String> {
        let started = Instant::now();
        while let Err(error) = run("umount", &[&text(&self.path())]) {
            if started.elapsed() > BUSY {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.mounted = false;
        Ok(())
    }

    fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted && self.unmount().is_err() {
            // Somebody holds on to it: it goes when they do, and its loop device with it.
            let _ = run("umount", &["-l", &text(&self.path())]);
        }
    }
}

/// Unmounts what tests have left that were killed themselves.
fn free_those_of_the_dead() {
    for line in fs::read_to_string("/proc/self/mounts").unwrap_or_default().lines() {
        let Some(place) = line.split(' ').nth(1) else { continue };
        let Some(rest) = place.split(PREFIX).nth(1) else { continue };
        let owner = rest.split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(owner).exists() {
            let _ = run("umount", &["-l", place]);
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    // Where a user's path has no place for them.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(program).args(arguments).env("PATH", path).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}
