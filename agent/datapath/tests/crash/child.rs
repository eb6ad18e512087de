//! The agent that dies: this test program once more, told by its environment what to do.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, abort};

use agent_datapath::{Config, Datapath, failpoint};
use agent_model::PodInfo;
use serde::{Deserialize, Serialize};

use crate::lab::{Lab, TestPod};

/// Carries the [`Job`] of a child.
const JOB: &str = "CULVERT_CRASH_JOB";
/// What a child dies of.
const SIGABRT: i32 = 6;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Verb {
    Enrol,
    Unenrol,
}

#[derive(Debug, Serialize, Deserialize)]
struct Job {
    verb: Verb,
    /// Where to die.
    place: String,
    pod: PodInfo,
    bpffs: PathBuf,
    host_netns: PathBuf,
    state_dir: PathBuf,
    cgroup_root: PathBuf,
    object: PathBuf,
}

/// True in a child.
pub(crate) fn is_one() -> bool {
    std::env::var_os(JOB).is_some()
}

/// Starts a child that does as an agent does after its start, and dies at `place` of `verb`.
/// `test` is the beginning of the name of the test that calls [`work`].
pub(crate) fn crash(test: &str, lab: &Lab, pod: &TestPod, verb: Verb, place: &str) {
    let job = Job {
        verb,
        place: place.to_owned(),
        pod: pod.info.clone(),
        bpffs: lab.config.bpffs.clone(),
        host_netns: lab.config.host_netns.clone(),
        state_dir: lab.config.state_dir.clone(),
        cgroup_root: lab.config.cgroup_root.clone(),
        object: lab.config.object.clone(),
    };
    let output = Command::new(std::env::current_exe().unwrap())
        .args([test, "--nocapture", "--test-threads=1"])
        .env(JOB, serde_json::to_string(&job).unwrap())
        .output()
        .unwrap();
    assert_eq!(
        output.status.signal(),
        Some(SIGABRT),
        "{verb:?} never came to {place}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The child's work. Returns only when the place was never reached.
pub(crate) fn work() {
    let job: Job = serde_json::from_str(&std::env::var(JOB).unwrap()).unwrap();
    let datapath = Datapath::load(&Config {
        object: job.object,
        bpffs: job.bpffs,
        cgroup_root: job.cgroup_root,
        host_netns: job.host_netns,
        host_proc: "/proc".into(),
        state_dir: job.state_dir,
        tables: &agent_datapath::TABLES,
        names: true,
        debug: false,
    })
    .unwrap_or_else(|error| panic!("{error}"));
    let place = job.place;
    let die = move |reached: &'static str| {
        if reached == place {
            abort();
        }
        false
    };
    match job.verb {
        Verb::Enrol => {
            failpoint::set(die);
            crate::enrol(&datapath, &job.pod);
        }
        Verb::Unenrol => {
            crate::enrol(&datapath, &job.pod);
            failpoint::set(die);
            datapath.unenrol(&job.pod.container_id).unwrap();
        }
    }
    panic!("the place was never reached");
}
