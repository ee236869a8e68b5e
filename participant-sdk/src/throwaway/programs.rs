use std::cmp::Reverse;
use std::ffi::OsString;
use std::path::PathBuf;

use super::Error;

/// Where the programs of the servers are looked for.
#[derive(Debug)]
pub struct Places(Vec<PathBuf>);

impl Places {
    /// The PATH, and where Debian puts what is not on it: the newest PostgreSQL first.
    pub fn of_this_machine() -> Places {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut places: Vec<_> = std::env::split_paths(&path).collect();
        let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let mut versions: Vec<_> = versions.map(|version| version.path()).collect();
        let number = |version: &PathBuf| version.file_name()?.to_str()?.parse::<u32>().ok();
        versions.sort_by_key(|version| Reverse(number(version)));
        places.extend(versions.into_iter().map(|version| version.join("bin")));
        places.extend(["/usr/bin", "/usr/sbin"].map(PathBuf::from));
        Places(places)
    }

    #[cfg(test)]
    pub fn at<const N: usize>(places: [&str; N]) -> Places {
        Places(places.map(PathBuf::from).into())
    }

    pub fn find(&self, program: &'static str, package: &'static str) -> Result<OsString, Error> {
        let found = self.0.iter().map(|place| place.join(program)).find(|path| path.is_file());
        found.map(PathBuf::into_os_string).ok_or_else(|| Error::Missing {
            program,
            places: self.0.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(":"),
            package,
        })
    }
}
