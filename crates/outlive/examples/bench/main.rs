//! Measures the engine on a real file at full durability.
//!
//! ```text
//! bench W1 --n 20000            throughput: runs of three steps that do nothing
//! bench W2 --n 100 --load 1000  latency of a submit: idle; in turn with a raw commit; with runs in flight; during a burst
//! bench W3 --past 1,10000       latency of a poll, by the number of finished runs
//! bench W4 --n 10000            runs that wait 10 s: lateness and memory; all submitted at once, or by --callers N
//! bench W5 --n 40000            events to one subscriber: latency and rate
//! bench W6a --n 200             starts runs of three half-second steps and prints their ids: kill it
//! bench W6b --ids FILE          recovers them
//! bench W7                      prints a line once the first run is accepted
//! bench W8 --seconds 60         a submit every 10 ms, without and with a reader that keeps its transaction open
//! bench L1 --n 200 --rate 20     runs at once at a model server that takes 20 calls a second: lateness, refusals
//! bench R1 --processes 4        processes that share a server's 60,000 tokens in --window 60 s: used, refused
//! bench S1 --ws 1000 --sse 1000 followers of one run, 10 % of them stalled: does the run slow down, how late are they
//! bench S2                      a server that idles: memory, and time from its start to the first accepted run
//! bench D1 --n 2000             bytes on disk for a run that does nothing and for a team's, beside their contents
//! bench D2 --steps 1000,10000   what a step costs in runs of that many
//! bench G1 --steps 3,10000      polls without results, in turn, of runs of that many steps
//! bench G2 --items 100,10000    a ForEach of that many items: time for each, memory; the largest, killed and resumed
//! bench G3 --n 200              memory of each of 64 waiting branches, in that many runs
//! bench G4 --turns 500          one agent that calls a tool in each turn: time and log of early turns and late ones
//! bench Q1 --n 100000           that many runs that wait for people: memory, and how soon an answer shows
//! bench T1 --n 10000 --seconds 60 that many schedules due in a minute: lateness of their runs; --processes N on one file
//! bench S3 --runs 350000         lists over HTTP, in a file with that many runs
//! bench F1 --n 20               `outlive run FILE`, that many times: from its start to its first accepted run
//! bench F2 --n 1000             loads that many workflow files
//! bench beside                  AgentOS and our server in turn, --rounds 3 times, as a table; --figures names some of
//!                               throughput,memory,polls,start,kill; sizes by --n, --waiting, --past, --polls, --killed
//! bench raw                     the same disk's limit: bare SQLite commits, single and grouped
//! bench table                   all of it, each in a process of its own, as the table of docs/benchmarks.md
//! ```
//! Every workload prints JSON lines. `PEER_DIR` names the folder for data, `STEP_LOG` a file that W6's steps append to.

mod beside;
mod disk;
mod files;
mod growth;
mod limited;
mod lists;
mod measure;
mod people;
mod raw;
mod serve;
mod table;
mod ticks;
mod workloads;

use measure::Arguments;

/// The one of the `outlive` binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let arguments = Arguments::from_env();
    match arguments.workload.as_str() {
        "table" => table::print(&arguments),
        "raw" => raw::print(),
        "F1" => files::first_run(&arguments),
        "F2" => files::load(&arguments),
        "G2" => growth::items(&arguments),
        "Q1" => people::paused(&arguments),
        "serve" | "L1" | "R1" | "R1-process" | "D1" | "D2" | "G1" | "G3" | "G4" | "map" | "desk" | "T1" | "ticker"
        | "S1" | "S2" | "S3" | "beside" | "beside-serve" => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime starts");
            runtime.block_on(async {
                match arguments.workload.as_str() {
                    "serve" => serve::serve().await,
                    "L1" => limited::run(&arguments).await,
                    "R1" => limited::shared(&arguments).await,
                    "R1-process" => limited::shared_process(&arguments).await,
                    "S1" => serve::followers(&arguments).await,
                    "D1" => disk::measure(&arguments).await,
                    "D2" => disk::long_lines(&arguments).await,
                    "G1" => growth::polls(&arguments).await,
                    "G3" => growth::branches(&arguments).await,
                    "G4" => growth::turns(&arguments).await,
                    "map" => growth::map_process(&arguments).await,
                    "desk" => people::desk_process(&arguments).await,
                    "T1" => ticks::measure(&arguments).await,
                    "ticker" => ticks::helper_process().await,
                    "S3" => lists::measure(&arguments).await,
                    "beside" => beside::compare(&arguments).await,
                    "beside-serve" => beside::serve().await,
                    _ => serve::idle().await,
                }
            });
        }
        _ => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime starts");
            runtime.block_on(workloads::run(&arguments));
        }
    }
}
