//! The enums of the protos as words.

use assent_proto::v1::{BranchState, InquiryAnswer, Outcome, Protocol, ReservationClass, State, Vote};
use serde_json::Value;

use super::output::Colour;

/// States that can be asked for.
pub const STATES: [&str; 9] =
    ["active", "preparing", "delegated", "committing", "aborting", "committed", "aborted", "mixed", "hazard"];

/// An enum of the protos.
pub trait Word: TryFrom<i32> {
    /// What the names of its values begin with.
    const PREFIX: &'static str;
    /// The name in the proto: `STATE_ACTIVE`.
    fn name(&self) -> &'static str;
}

macro_rules! word {
    ($($enum:ty: $prefix:literal),* $(,)?) => {$(
        impl Word for $enum {
            const PREFIX: &'static str = $prefix;
            fn name(&self) -> &'static str {
                self.as_str_name()
            }
        }
    )*};
}

word! {
    BranchState: "BRANCH_STATE_",
    InquiryAnswer: "INQUIRY_ANSWER_",
    Outcome: "OUTCOME_",
    Protocol: "PROTOCOL_",
    ReservationClass: "RESERVATION_CLASS_",
    State: "STATE_",
    Vote: "VOTE_",
}

/// For JSON: `two_phase`, `rolled_back`; `null` where it is unspecified. A value of a later version is `unknown_17`.
pub fn json_word<E: Word>(number: i32) -> Value {
    if number == 0 { Value::Null } else { Value::from(snake(E::try_from(number).ok(), number)) }
}

/// For people: `2pc`, `rolled-back`; empty where it is unspecified.
pub fn word<E: Word>(number: i32) -> String {
    match number {
        0 => String::new(),
        number => match snake(E::try_from(number).ok(), number).as_str() {
            "two_phase" => "2pc".to_owned(),
            word => word.replace('_', "-"),
        },
    }
}

/// The colour of a state: good, under way, or in need of somebody.
pub fn state_colour(state: i32) -> Option<Colour> {
    match State::try_from(state).ok()? {
        State::Unspecified | State::Active | State::Preparing => None,
        State::Delegated | State::Committing | State::Aborting => Some(Colour::Yellow),
        State::Committed => Some(Colour::Green),
        State::Aborted => Some(Colour::Cyan),
        State::Mixed | State::Hazard => Some(Colour::Red),
    }
}

/// The state with one of the names in [`STATES`].
pub fn state_named(word: &str) -> Option<State> {
    State::from_str_name(&format!("STATE_{}", word.to_uppercase()))
}

fn snake<E: Word>(value: Option<E>, number: i32) -> String {
    match value {
        Some(value) => value.name().strip_prefix(E::PREFIX).unwrap_or(value.name()).to_lowercase(),
        None => format!("unknown_{number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_protos() {
        assert_eq!(json_word::<Protocol>(1), "two_phase");
        assert_eq!(word::<Protocol>(1), "2pc");
        assert_eq!(json_word::<BranchState>(9), "rolled_back");
        assert_eq!(word::<Vote>(2), "read-only");
        assert_eq!(json_word::<Outcome>(0), Value::Null);
        assert_eq!(word::<State>(17), "unknown-17");
    }

    #[test]
    fn every_state_can_be_asked_for() {
        let all: Vec<String> =
            (1..).map_while(|n| State::try_from(n).ok()).map(|s| word::<State>(s as i32)).collect();
        assert_eq!(all, STATES);
        assert!(STATES.iter().all(|word| state_named(word).is_some()));
    }
}
