//! Room on the stack for the parser and the interpreter, both of which are recursive.

use std::panic::resume_unwind;
use std::thread;

/// Unoptimised, one bracket takes the parser 170 KiB of stack, twenty times what it takes in a
/// release build.
const DEBUG_STACK_BYTES: usize = 64 << 20;

/// Runs `work` where the deepest expression that [`super::MAX_DEPTH`] admits cannot exhaust the
/// stack.
///
/// A release build needs less than 512 KiB for it and simply calls `work`; a debug build runs it on
/// a thread with a stack of its own, and waits for it.
pub(super) fn with_room<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    if !cfg!(debug_assertions) {
        return work();
    }
    thread::scope(|scope| {
        let builder = thread::Builder::new().stack_size(DEBUG_STACK_BYTES);
        match builder.spawn_scoped(scope, work) {
            Ok(handle) => handle
                .join()
                .unwrap_or_else(|payload| resume_unwind(payload)),
            Err(error) => resume_unwind(Box::new(error.to_string())),
        }
    })
}
