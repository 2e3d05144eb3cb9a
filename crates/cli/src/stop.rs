//! How a command is told to stop.

use crate::exit::Exit;
use std::io;

/// For a command that serves: listens for Ctrl-C and SIGTERM from now on; the future is ready at the first. At the second the
/// process ends at once, which loses nothing: unfinished runs are taken over when their leases end. A terminal that closes
/// (SIGHUP) changes nothing.
///
/// # Errors
/// When signals cannot be listened for.
#[cfg(unix)]
pub(crate) fn stop_signal() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // Once listened for, it ends the process no more.
    drop(signal(SignalKind::hangup())?);
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

/// For a command that shows something: ready at Ctrl-C, SIGTERM, or the end of its terminal. At the second of them the process
/// ends at once.
#[cfg(unix)]
pub(crate) async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
    let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = kinds else { return std::future::pending().await };
    let mut told = async move || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    };
    told().await;
    tokio::spawn(async move {
        told().await;
        std::process::exit(Exit::Interrupted as i32);
    });
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

/// The same with Ctrl-C alone.
#[cfg(not(unix))]
pub(crate) async fn stopped() {
    if let Ok(stop) = stop_signal() {
        stop.await;
    }
}
