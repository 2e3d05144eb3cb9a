//! How a long-running command is told to stop.

use crate::exit::Exit;
use std::io;

/// Listens for Ctrl-C and SIGTERM from now on; the future is ready at the first. At the second the process ends at
/// once, which loses nothing: unfinished runs are taken over when their leases end.
///
/// # Errors
/// When signals cannot be listened for.
#[cfg(unix)]
pub(crate) fn stop_signal() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            std::process::exit(Exit::Interrupted as i32);
        });
    })
}

/// The same with Ctrl-C alone.
///
/// # Errors
/// None here.
#[cfg(not(unix))]
pub(crate) fn stop_signal() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    Ok(async {
        let _ = tokio::signal::ctrl_c().await;
        tokio::spawn(async {
            let _ = tokio::signal::ctrl_c().await;
            std::process::exit(Exit::Interrupted as i32);
        });
    })
}
