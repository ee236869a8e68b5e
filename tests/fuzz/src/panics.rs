//! A panic in a task of its own ends that task and nothing else: it is counted, and looked at afterwards.

use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

static COUNT: AtomicUsize = AtomicUsize::new(0);
static HOOK: Once = Once::new();

/// Counts panics from now on, besides what happens at one anyway.
pub fn watch() {
    HOOK.call_once(|| {
        let former = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            COUNT.fetch_add(1, Ordering::SeqCst);
            former(panic);
        }));
    });
}

/// How many there were in the whole process.
pub fn count() -> usize {
    COUNT.load(Ordering::SeqCst)
}
