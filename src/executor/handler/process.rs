//! A child process with a group of its own, which ends with it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;

/// A process that runs. However it is let go, nothing that it started in its group goes on.
#[derive(Debug)]
pub(super) struct Process {
    pub stdin: pipe::Sender,
    pub stdout: pipe::Receiver,
    pub stderr: pipe::Receiver,
    pub exit: Exit,
}

/// The end of a process; dropped before it, the process is killed.
#[derive(Debug)]
pub(super) struct Exit {
    group: Arc<Group>,
    status: JoinHandle<io::Result<ExitStatus>>,
}

#[derive(Debug)]
struct Group {
    leader: Pid,
    /// The leader's id may be somebody else's by now.
    reaped: Mutex<bool>,
}

impl Process {
    /// Starts `command`, a program and its arguments; no shell reads them.
    pub(super) fn start(
        command: &[String],
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> io::Result<Process> {
        let (program, arguments) = command
            .split_first()
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut child = Command::new(program)
            .args(arguments)
            .envs(environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let exit = Exit::of(child);
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(io::Error::other("the process has no pipes"));
        };
        Ok(Process {
            stdin: pipe::Sender::from_owned_fd(OwnedFd::from(stdin))?,
            stdout: pipe::Receiver::from_owned_fd(OwnedFd::from(stdout))?,
            stderr: pipe::Receiver::from_owned_fd(OwnedFd::from(stderr))?,
            exit,
        })
    }
}

impl Exit {
    fn of(child: Child) -> Exit {
        let group = Arc::new(Group {
            leader: Pid::from_child(&child),
            reaped: Mutex::new(false),
        });
        let waiting = Arc::clone(&group);
        let status = tokio::task::spawn_blocking(move || waiting.wait(child));
        Exit { group, status }
    }

    /// Waits for the end of the process, and of what it left behind.
    pub(super) async fn status(&mut self) -> io::Result<ExitStatus> {
        (&mut self.status).await.map_err(io::Error::other)?
    }
}

impl Drop for Exit {
    fn drop(&mut self) {
        self.group.kill();
    }
}

impl Group {
    fn kill(&self) {
        let reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        if !*reaped {
            // It fails only when all have ended.
            let _ = kill_process_group(self.leader, Signal::KILL);
        }
    }

    fn wait(&self, mut child: Child) -> io::Result<ExitStatus> {
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while let Err(error) = waitid(WaitId::Pid(self.leader), ended) {
            if error != rustix::io::Errno::INTR {
                return Err(error.into());
            }
        }
        // As long as the leader is not reaped its id, which is the group's, is nobody else's.
        self.kill();
        let mut reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        *reaped = true;
        child.wait()
    }
}
