//! A log with its transactions understood.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::cli::{Exit, Failure};
use crate::coordinator::system_wall_clock;
use crate::core::{DecodeError, Now, Timestamp, Transaction, TxId};
use crate::store::Survey;

/// What was read of a log.
pub struct Reading {
    pub survey: Survey,
    /// By age.
    pub transactions: Vec<Transaction>,
    /// Values whose checksum is right, and which make no transaction all the same.
    pub misunderstood: Vec<(TxId, DecodeError)>,
    /// Transactions of whose request a later one was begun, which each comes with.
    pub succeeded: BTreeMap<TxId, TxId>,
}

impl Reading {
    pub fn of(survey: Survey) -> Reading {
        let (mut transactions, mut misunderstood) = (Vec::new(), Vec::new());
        for (tx, value) in &survey.values {
            match Transaction::replay(*tx, value.clone()) {
                Ok(transaction) => transactions.push(transaction),
                Err(error) => misunderstood.push((*tx, error)),
            }
        }
        transactions.sort_by_key(|tx| tx.id.order());
        let (mut begun, mut succeeded) = (BTreeMap::new(), BTreeMap::new());
        for tx in &transactions {
            let Some(request) = &tx.request else { continue };
            if let Some(earlier) = begun.insert(request.id.as_str().to_owned(), tx.id) {
                succeeded.insert(earlier, tx.id);
            }
        }
        Reading { survey, transactions, misunderstood, succeeded }
    }

    pub fn is_sound(&self) -> bool {
        self.survey.refusal.is_none() && self.misunderstood.is_empty() && self.succeeded.is_empty()
    }

    pub fn records(&self) -> usize {
        self.transactions.iter().map(|tx| tx.records().count()).sum()
    }

    /// What is wrong with it, a sentence each: first why no daemon starts on it.
    pub fn damage(&self) -> Vec<String> {
        let survey = &self.survey;
        let mut texts: Vec<String> = survey.refusal.iter().map(ToString::to_string).collect();
        for damage in &survey.damage {
            let text = damage.to_string();
            if !texts.iter().any(|told| told.contains(&text)) {
                texts.push(text);
            }
        }
        let misunderstood = &self.misunderstood;
        texts.extend(misunderstood.iter().map(|(tx, error)| format!("transaction {tx}: {error}")));
        let succeeded = &self.succeeded;
        texts.extend(
            succeeded.iter().map(|(tx, later)| format!("transaction {tx}: its request began {later} too")),
        );
        texts
    }

    /// What the log is part of, for JSON.
    pub fn place(&self) -> Value {
        json!({
            "data_dir": self.survey.dir().display().to_string(),
            "cluster_id": self.survey.cluster.map(|cluster| cluster.to_string()),
        })
    }

    pub fn groups(&self) -> Value {
        self.survey.groups.map_or(Value::Null, |(first, last)| json!({ "first": first, "last": last }))
    }

    /// How a command on a damaged log ends.
    pub fn damaged(&self) -> Failure {
        let dir = self.survey.dir().display();
        let first = self.damage().into_iter().next().unwrap_or_default();
        Failure::new(Exit::Error, format!("the log in {dir} is damaged: {first}")).with_hint(
            "restore the whole directory from a backup, or see `assent log repair --help`; `assent log export --salvage` \
             prints what can be read",
        )
    }
}

/// The time, for those who only look.
pub fn now() -> Now {
    Now { mono: Timestamp::ZERO, wall: system_wall_clock() }
}
