//! What came out.

use assent_proto::v1::Protocol;

/// Everything that was looked at, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub findings: Vec<Finding>,
    /// Branches that may still be prepared, as `xid/branch`: their rollback was not acknowledged.
    pub left_open: Vec<String>,
}

/// One rule, and whether it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Kebab-case; does not change from version to version.
    pub name: &'static str,
    /// The rule, in a line.
    pub about: &'static str,
    pub protocol: Protocol,
    pub verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    /// What was expected, what was seen, and what that breaks.
    Failed(String),
    /// Why not, and what would enable it.
    NotRun(String),
}

impl Report {
    /// Nothing failed and nothing was left behind.
    pub fn is_good(&self) -> bool {
        self.left_open.is_empty() && self.count("failed") == 0
    }

    /// How many have this [word](Verdict::word).
    pub fn count(&self, word: &str) -> usize {
        self.findings.iter().filter(|finding| finding.verdict.word() == word).count()
    }
}

impl Verdict {
    /// `passed`, `failed` or `not run`.
    pub fn word(&self) -> &'static str {
        match self {
            Verdict::Passed => "passed",
            Verdict::Failed(_) => "failed",
            Verdict::NotRun(_) => "not run",
        }
    }

    /// Why it is not `passed`; empty where it is.
    pub fn why(&self) -> &str {
        match self {
            Verdict::Passed => "",
            Verdict::Failed(why) | Verdict::NotRun(why) => why,
        }
    }
}
