//! The program: reads the command line, runs the command, and turns an error into one line and an exit code.

use std::{os::unix::process::CommandExt, process::Command, process::ExitCode};

use tracing::warn;
use volume_reaper::{cli, commands, logging, traces};

/// For the static program: with musl's own allocator an event takes half as much again of our processor time.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code for settings that can't be used, as clap has it for a command line that can't.
const USAGE: u8 = 2;
/// What Rust's standard library reads, once, for the stack of every thread that does not say its own.
const STACK_SETTING: &str = "RUST_MIN_STACK";
/// The client library reads a message's headers level by level, on a thread of its own: 26,000 lists in each other fit
/// into a frame of 128 KiB. It is address space; memory is used as far as the stack grows.
const STACK_BYTES: usize = 1024 * 1024 * 1024;
/// For our own threads, which only drop such headers.
const OUR_STACK_BYTES: usize = 64 * 1024 * 1024;

fn main() -> ExitCode {
    with_deep_stacks();
    // The main thread has the stack that the system gave it.
    let worker = std::thread::Builder::new().name("main".to_owned()).stack_size(OUR_STACK_BYTES).spawn(start);
    let worker = worker.expect("a thread can be started");
    worker.join().unwrap_or(ExitCode::FAILURE)
}

/// Starts the program anew with deep stacks, if it has not. If that fails, it continues as it is: only messages with
/// headers that nest a thousand levels are more than it can take then.
fn with_deep_stacks() {
    let has = std::env::var(STACK_SETTING).ok().and_then(|bytes| bytes.parse::<usize>().ok());
    if has.is_some_and(|bytes| bytes >= STACK_BYTES) {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let mut arguments = std::env::args_os();
    let mut again = Command::new(program);
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    // Returns only if it fails. The process stays the one that it is.
    let _ = again.args(arguments).env(STACK_SETTING, STACK_BYTES.to_string()).exec();
}

fn start() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(OUR_STACK_BYTES).build();
    let runtime = runtime.expect("threads and an event queue");
    let code = runtime.block_on(run());
    // Whatever still waits for an answer, such as the resolver of names, is not waited for.
    runtime.shutdown_background();
    logging::finish();
    code
}

async fn run() -> ExitCode {
    let invocation = match cli::read() {
        Ok(invocation) => invocation,
        Err(error) => {
            eprintln!("volume-reaper: {error}");
            return ExitCode::from(USAGE);
        }
    };
    logging::install(&invocation.config);
    for warning in &invocation.config.warnings {
        warn!("{warning}");
    }
    let ended = Box::pin(commands::run(invocation)).await;
    traces::finish().await;
    match ended {
        Ok(code) => code,
        Err(error) => {
            logging::say(&format!("volume-reaper: {error}"));
            ExitCode::FAILURE
        }
    }
}
