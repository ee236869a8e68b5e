//! What must hold, and how a breach is found out.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};

/// What must hold, whatever fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Property {
    /// No transaction has one branch committed and another not, but for what is recorded as heuristic.
    Atomicity,
    /// What was told never changes.
    Stability,
    /// Commit only if every branch voted for it, and in time.
    Validity,
    /// When faults stop, everything ends.
    Termination,
    /// A branch's effect happens once or not at all.
    ExactlyOnce,
    /// Nobody is told what is not so.
    Honesty,
    /// The engine's own assertions hold.
    Consistency,
}

/// A property that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    pub property: Property,
    pub text: String,
}

const NAMES: [(&str, Property); 7] = [
    ("atomicity", Property::Atomicity),
    ("stability", Property::Stability),
    ("validity", Property::Validity),
    ("termination", Property::Termination),
    ("exactly once", Property::ExactlyOnce),
    ("honesty", Property::Honesty),
    ("consistency", Property::Consistency),
];

impl Property {
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, it)| *it == self).expect("each has a name").0
    }
}

impl Breach {
    /// A breach is a panic whose text begins with the name of the property; any other is an assertion of the engine's own.
    pub fn new(text: String) -> Breach {
        let named =
            NAMES.iter().find(|(name, _)| text.strip_prefix(name).is_some_and(|rest| rest.starts_with(": ")));
        Breach { property: named.map_or(Property::Consistency, |(_, property)| *property), text }
    }
}

thread_local! {
    static LISTENING: Cell<bool> = const { Cell::new(false) };
}

/// Does it, and says which property it broke, if any.
pub fn observe<T>(does: impl FnOnce() -> T) -> Result<T, Breach> {
    LISTENING.set(true);
    let done = panic::catch_unwind(AssertUnwindSafe(does));
    LISTENING.set(false);
    done.map_err(|payload| {
        let text = payload
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Breach::new(text.unwrap_or_else(|| "a panic without a text".to_owned()))
    })
}

/// Panics that are observed are not printed.
pub fn listen() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !LISTENING.get() {
            print(info);
        }
    }));
}
