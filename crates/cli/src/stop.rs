//! How a command that runs until it is told otherwise is told otherwise.

use crate::exit::Exit;
use std::io;

/// Listens from now on for Ctrl-C and SIGTERM; the future is ready at the first. At the second the process ends at once,
/// which loses nothing: what is unfinished is taken up again when its lease has ended.
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
