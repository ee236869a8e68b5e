//! `assent participant indoubt`

mod database;

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use assent_proto::TxId;
use assent_proto::v1::{BatchGetOutcomesRequest, Inquiry, InquiryAnswer};
use assent_sdk::sql::{Held, HeldBranch, HeldBy};
use clap::Args;
use futures_util::future::join_all;
use serde_json::{Value, json};

use self::database::Database;
use crate::cli::client::Client;
use crate::cli::output::{Colour, Format, Output, note};
use crate::cli::table::{Cell, Table};
use crate::cli::time::{brief, rfc3339, since};
use crate::cli::words::{json_word, word};
use crate::cli::{Exit, Failure, Global};

/// The most that the server takes in one call.
const INQUIRIES_MAX: usize = 1000;

/// What stands for the coordinator's answer where it gave none.
const UNREACHABLE: &str = "unreachable";

pub const ABOUT: &str = "\
List what databases hold for branches, and what the coordinator says of each

Asks each database for its prepared transactions, and for the reservations in its table assent_barrier, and then the \
coordinator (--server) what became of them. Nothing is changed, neither there nor here. AGE counts from the begin of the \
transaction, by the clock of its coordinator, for all databases alike.

What the coordinator says, and what to do:
  commit, abort  decided: the participant carries it out by itself when it runs, so start it
  pending        not decided yet; `assent tx show XID` says why
  foreign        of another coordinator, or its log was wiped or restored: find the log that
                 knows the transaction, and let nobody end the branch by hand before
  unreachable    no answer, or it still reads its log: start it
  -              not assent's: whoever made it must end it

Each DATABASE_URL is postgres://…, mysql://…, mariadb://…, or a SQLite file: sqlite:PATH, or a path that ends in .db, \
.sqlite or .sqlite3. The variable DATABASE_URL keeps a password out of the list of processes.";

#[derive(Debug, Args)]
pub struct Indoubt {
    /// The databases of participants
    #[arg(value_name = "DATABASE_URL", env = "DATABASE_URL", hide_env_values = true, required = true)]
    databases: Vec<DatabaseUrl>,
}

/// Taken as it is, and parsed later: clap would show the whole of a wrong one, with the password.
#[derive(Clone)]
struct DatabaseUrl(String);

/// Something that a database holds.
struct Found {
    database: String,
    held: Held,
    /// What the coordinator says; absent where it was not asked, or did not answer.
    answer: Option<InquiryAnswer>,
}

impl Indoubt {
    pub async fn run(self, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
        let databases = self.databases.iter().enumerate();
        let databases = databases.map(|(at, url)| parse(at + 1, url)).collect::<Result<Vec<_>, _>>()?;
        let wait = global.timeout.map_or(database::WAIT, Duration::from);
        let answers = join_all(databases.iter().map(|database| database.held(wait))).await;
        let mut found = Vec::new();
        let mut exit = Exit::Ok;
        for (database, answer) in databases.iter().zip(answers) {
            let found_in = |held| Found { database: database.to_string(), held, answer: None };
            match answer {
                Ok(held) => found.extend(held.into_iter().map(found_in)),
                Err(failure) => exit = failure.report(),
            }
        }
        if let Err(failure) = ask(&mut found, global).await {
            failure.report();
        }
        let now = SystemTime::now();
        match output.format {
            Format::Json => {
                let held: Vec<_> = found.iter().map(|found| found.json(now)).collect();
                output.json(&json!({ "held": held }))?;
            }
            Format::Table if found.is_empty() => note("nothing is held"),
            Format::Table => {
                output.table(&table(&found, now))?;
                note("`assent participant indoubt --help` says what to do about each");
            }
        }
        Ok(exit)
    }
}

impl From<&str> for DatabaseUrl {
    fn from(text: &str) -> DatabaseUrl {
        DatabaseUrl(text.to_owned())
    }
}

impl std::fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("..")
    }
}

impl Found {
    fn branch(&self) -> Option<&HeldBranch> {
        self.held.branch.as_ref()
    }

    fn by(&self) -> &'static str {
        match self.held.by {
            HeldBy::Prepared => "prepared",
            HeldBy::Reserved => "reserved",
        }
    }

    fn json(&self, now: SystemTime) -> Value {
        let branch = self.branch();
        let begun = branch.map(|branch| begin_time(branch.xid));
        json!({
            "database": self.database,
            "name": self.held.name,
            "xid": branch.map(|branch| branch.xid.to_string()),
            "branch_id": branch.map(|branch| branch.id.as_str()),
            "participant": branch.map(|branch| branch.participant.as_str()),
            "held": self.by(),
            "begin_time": begun.map(rfc3339),
            "age_ms": begun.map(|begun| u64::try_from(since(now, begun).as_millis()).unwrap_or(u64::MAX)),
            "coordinator": branch.map(|_| match self.answer {
                Some(answer) => json_word::<InquiryAnswer>(answer.into()),
                None => UNREACHABLE.into(),
            }),
        })
    }
}

fn parse(place: usize, DatabaseUrl(url): &DatabaseUrl) -> Result<Database, Failure> {
    url.parse()
        .map_err(|error| Failure::new(Exit::Usage, format!("DATABASE_URL {place} is not one: {error}")))
}

/// Asks the coordinator about all branches that are known as such.
async fn ask(found: &mut [Found], global: &Global) -> Result<(), Failure> {
    let inquiries: Vec<Inquiry> = found
        .iter()
        .filter_map(Found::branch)
        .map(|branch| Inquiry {
            xid: branch.xid.to_string(),
            branch_id: branch.id.to_string(),
            // Said to be expired, an undecided transaction would be aborted.
            expired: false,
        })
        .collect();
    if inquiries.is_empty() {
        return Ok(());
    }
    let client = Client::connect(global).await?;
    let mut answers = HashMap::new();
    for some in inquiries.chunks(INQUIRIES_MAX) {
        let request = BatchGetOutcomesRequest { inquiries: some.to_vec() };
        let response = client.call(client.inquiries().batch_get_outcomes(request)).await?;
        for result in response.results {
            let answer = result.answer();
            answers.insert((result.xid, result.branch_id), answer);
        }
    }
    for found in found {
        let name = found.branch().map(|branch| (branch.xid.to_string(), branch.id.to_string()));
        found.answer = name.and_then(|name| answers.get(&name).copied());
    }
    Ok(())
}

fn table(found: &[Found], now: SystemTime) -> Table {
    let mut table = Table::new(["DATABASE", "XID", "BRANCH", "PARTICIPANT", "HELD", "AGE", "COORDINATOR"]);
    for found in found {
        let Some(branch) = found.branch() else {
            // Whatever it is called stands where the xid would.
            let name = &found.held.name;
            let none = || Cell::from("-");
            let by = found.by().into();
            table.row([(&found.database).into(), name.into(), none(), none(), by, none(), none()]);
            continue;
        };
        table.row([
            (&found.database).into(),
            branch.xid.to_string().into(),
            branch.id.as_str().into(),
            (&branch.participant).into(),
            found.by().into(),
            brief(since(now, begin_time(branch.xid))).into(),
            answer_cell(found.answer),
        ]);
    }
    table
}

fn answer_cell(answer: Option<InquiryAnswer>) -> Cell {
    let Some(answer) = answer else { return Cell::from(UNREACHABLE).coloured(Some(Colour::Red)) };
    let colour = match answer {
        InquiryAnswer::Unspecified | InquiryAnswer::Pending => None,
        InquiryAnswer::Commit => Some(Colour::Green),
        InquiryAnswer::Abort => Some(Colour::Cyan),
        InquiryAnswer::Foreign => Some(Colour::Red),
    };
    Cell::from(word::<InquiryAnswer>(answer.into())).coloured(colour)
}

fn begin_time(xid: TxId) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(xid.time_ms())
}
