//! What is logged.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing::{Level, span};

/// Keeps the messages, without their fields, of the thread that asks for it.
#[derive(Clone)]
pub struct Log {
    level: Level,
    target: &'static str,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Log {
    /// Of a level or more severe, of targets that begin with this.
    pub fn of(level: Level, target: &'static str) -> Log {
        Log { level, target, lines: Arc::default() }
    }

    /// What the SDK warns of, errors included.
    pub fn warnings() -> Log {
        Log::of(Level::WARN, "assent")
    }

    /// Keeps them until the guard is dropped.
    pub fn keep(&self) -> DefaultGuard {
        tracing::subscriber::set_default(self.clone())
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, about: &tracing::Metadata<'_>) -> bool {
        *about.level() <= self.level && about.target().starts_with(self.target)
    }

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut Line(&mut self.lines.lock().unwrap()));
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

struct Line<'a>(&'a mut Vec<String>);

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0.push(format!("{value:?}"));
        }
    }
}
