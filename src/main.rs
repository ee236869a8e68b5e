//! The one binary.

/// Every transaction allocates dozens of small things, on one thread, and frees them on another: `assent bench` makes a
/// third more transactions with this allocator than with the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    assent::cli::main()
}
