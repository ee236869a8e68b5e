use std::ffi::OsStr;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

/// A shell that outlives this process where it must: it holds a directory and a server, and when its orders end it
/// ends both. They end when this is dropped, and also when this process is killed.
#[derive(Debug)]
pub struct Keeper {
    shell: Child,
    answers: BufReader<ChildStdout>,
    directory: PathBuf,
}

impl Keeper {
    /// Database servers refuse to run as root. Where this process does, the keeper and all below it are the first of
    /// these users that exists.
    pub fn start(users: &[&str]) -> io::Result<Keeper> {
        // In a session of its own. In ours an interrupt from the terminal would end it; and so would our own end, at
        // which the kernel hangs up on what we leave behind where a process in it is stopped, as a dying server is.
        let mut shell = Command::new("setsid");
        shell.args(["sh", "-c", include_str!("keeper.sh")]).current_dir("/").env("LC_ALL", "C");
        shell.stdin(Stdio::piped()).stdout(Stdio::piped());
        if std::fs::metadata("/proc/self")?.uid() == 0 {
            let (uid, gid) = ids(&std::fs::read_to_string("/etc/passwd")?, users)?;
            shell.uid(uid).gid(gid);
        }
        let mut shell = shell.spawn()?;
        let answers = BufReader::new(shell.stdout.take().expect("it is piped"));
        let mut keeper = Keeper { shell, answers, directory: PathBuf::new() };
        keeper.directory = keeper.answer()?.into();
        Ok(keeper)
    }

    /// The server's data are in `data` below it, what it says in `log`.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Has it call one of the functions in `keeper.sh`, and waits for the answer.
    pub fn order(&mut self, function: &str, arguments: &[impl AsRef<OsStr>]) -> io::Result<String> {
        let mut order = function.as_bytes().to_vec();
        for argument in arguments {
            order.extend_from_slice(b" '");
            order.extend(quoted(argument.as_ref())?);
            order.push(b'\'');
        }
        order.push(b'\n');
        self.shell.stdin.as_mut().expect("it is piped").write_all(&order)?;
        self.answer()
    }

    fn answer(&mut self) -> io::Result<String> {
        let mut answer = String::new();
        if self.answers.read_line(&mut answer)? == 0 {
            let what = "the shell that keeps the server has ended; was it killed?";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        }
        answer.truncate(answer.trim_end_matches('\n').len());
        Ok(answer)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // This closes its input first. Nobody could do anything about an error.
        let _ = self.shell.wait();
    }
}

/// What may stand between single quotes on one line of a shell's input.
fn quoted(argument: &OsStr) -> io::Result<Vec<u8>> {
    let bytes = argument.as_encoded_bytes();
    if bytes.iter().any(|byte| matches!(byte, b'\n' | b'\0')) {
        let what = format!("{} has a line break or a NUL byte; take them out", argument.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let parts: Vec<_> = bytes.split(|byte| *byte == b'\'').collect();
    Ok(parts.join(&br"'\''"[..]))
}

/// User and group id of the first of these users that is in this `passwd` file.
fn ids(passwd: &str, users: &[&str]) -> io::Result<(u32, u32)> {
    let of = |user: &&str| {
        let mut lines = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let line = lines.find(|line| line.first() == Some(user))?;
        Some((line.get(2)?.parse().ok()?, line.get(3)?.parse().ok()?))
    };
    users.iter().find_map(of).ok_or_else(|| {
        let what = format!("none of the users {} is in /etc/passwd", users.join(", "));
        io::Error::new(io::ErrorKind::NotFound, what)
    })
}
