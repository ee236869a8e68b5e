//! A log with its transactions understood.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::cli::{Exit, Failure};
use crate::core::{DecodeError, Now, Timestamp, Transaction, TxId, WallTime};
use crate::store::Survey;

/// What was read of a log.
pub struct Reading {
    pub survey: Survey,
    /// By age.
    pub transactions: Vec<Transaction>,
    /// Values whose checksum is right, and which make no transaction all the same.
    pub misunderstood: Vec<(TxId, DecodeError)>,
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
        Reading { survey, transactions, misunderstood }
    }

    pub fn is_sound(&self) -> bool {
        self.survey.refusal.is_none() && self.misunderstood.is_empty()
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
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let wall = WallTime(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX));
    Now { mono: Timestamp::ZERO, wall }
}
