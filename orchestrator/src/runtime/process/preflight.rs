//! What can be known to be wrong before anything is started, and the order for a supervisor if
//! nothing is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{FsType, statfs};
use rustix::fs::{Access, access};
use weald_proto::name::InstanceId;
use weald_proto::spec::ServiceSpec;

use crate::runtime::Launch;

/// Where programs are looked for when the service's environment does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The magic number of the file system that namespace files are on (`NSFS_MAGIC`).
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// What programs read their resolvers from; the instance's own is put over it.
pub(crate) const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Why an instance cannot be started.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// There is no such file.
    #[error("there is no file {0:?} on this node; `code` is to name a program that is there")]
    NoFile(PathBuf),
    /// The program is in none of the folders of PATH.
    #[error("there is no program {program:?} in any folder of PATH ({path}) on this node")]
    NotInPath {
        /// The command's first word.
        program: String,
        /// The folders.
        path: String,
    },
    /// It is a folder or the like.
    #[error("{0:?} is not a file that can be run")]
    NotAFile(PathBuf),
    /// It is a file without the permission.
    #[error("{0:?} is not executable; `chmod +x` makes it so")]
    NotExecutable(PathBuf),
    /// It would depend on the folder that the worker was started in.
    #[error("{0:?} is a relative path; write it from the root on")]
    Relative(PathBuf),
    /// A text that no program can be given.
    #[error("{what} {text:?} cannot be passed on: {why}")]
    Text {
        /// What it is.
        what: &'static str,
        /// The text.
        text: String,
        /// Why not.
        why: &'static str,
    },
    /// The network namespace is not there.
    #[error("there is no network namespace at {0:?}")]
    NoNamespace(PathBuf),
    /// The instance's resolvers cannot be put in place.
    #[error("cannot give the instance its own /etc/resolv.conf: there is no file {0:?}")]
    NoResolvConf(PathBuf),
    /// The kernel does not tell.
    #[error("cannot look at {path:?}: {error}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: String,
    },
}

/// What is to be executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) file: PathBuf,
    pub(super) words: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
}

/// Checks all that a launch names, and finds its program.
pub(super) fn check(launch: &Launch) -> Result<Program, LaunchError> {
    let environment = environment(&launch.instance, &launch.spec)?;
    let path = environment.iter().find(|(name, _)| name == "PATH");
    let path = path.map_or(PATH, |(_, path)| path.as_str());
    let words = words(&launch.spec)?;
    let file = find(&launch.spec, path)?;
    if let Some(netns) = &launch.netns {
        check_namespace(netns)?;
    }
    if let Some(resolv_conf) = &launch.resolv_conf {
        for file in [resolv_conf.as_path(), Path::new(RESOLV_CONF)] {
            if !file.is_file() {
                return Err(LaunchError::NoResolvConf(file.to_owned()));
            }
        }
    }
    Ok(Program {
        file,
        words,
        environment,
    })
}

/// The command, or the code's own.
fn words(spec: &ServiceSpec) -> Result<Vec<String>, LaunchError> {
    let words = if spec.command.is_empty() {
        vec![spec.code.clone()]
    } else {
        spec.command.clone()
    };
    for word in &words {
        refuse_nul("the word", word)?;
    }
    Ok(words)
}

fn find(spec: &ServiceSpec, path: &str) -> Result<PathBuf, LaunchError> {
    let Some(first) = spec.command.first() else {
        // The code is always a path.
        return check_program(Path::new(&spec.code)).map(|()| spec.code.clone().into());
    };
    if first.contains('/') {
        return check_program(Path::new(first)).map(|()| first.into());
    }
    let not_found = || LaunchError::NotInPath {
        program: first.clone(),
        path: path.to_owned(),
    };
    if first.is_empty() {
        return Err(not_found());
    }
    let mut unfit = None;
    for folder in path.split(':').filter(|folder| folder.starts_with('/')) {
        let file = Path::new(folder).join(first);
        match check_program(&file) {
            Ok(()) => return Ok(file),
            Err(LaunchError::NoFile(_)) => {}
            Err(error) => unfit = Some(error),
        }
    }
    Err(unfit.unwrap_or_else(not_found))
}

fn check_program(file: &Path) -> Result<(), LaunchError> {
    if !file.is_absolute() {
        return Err(LaunchError::Relative(file.to_owned()));
    }
    let kind = match fs::metadata(file) {
        Ok(metadata) => metadata,
        Err(error) if is_absent(&error) => return Err(LaunchError::NoFile(file.to_owned())),
        Err(error) => return Err(unreadable(file, &error)),
    };
    if !kind.is_file() {
        return Err(LaunchError::NotAFile(file.to_owned()));
    }
    access(file, Access::EXEC_OK).map_err(|_| LaunchError::NotExecutable(file.to_owned()))
}

/// The service's variables, after those that every program may expect.
fn environment(
    instance: &InstanceId,
    spec: &ServiceSpec,
) -> Result<Vec<(String, String)>, LaunchError> {
    let mut environment = vec![
        ("PATH".to_owned(), PATH.to_owned()),
        ("HOME".to_owned(), "/".to_owned()),
        ("WEALD_INSTANCE".to_owned(), instance.to_string()),
    ];
    for (name, value) in &spec.environment {
        refuse_nul("the variable", name)?;
        refuse_nul("the value", value)?;
        if name.is_empty() || name.contains('=') {
            return Err(LaunchError::Text {
                what: "the variable",
                text: name.clone(),
                why: "a name is not empty and has no `=`",
            });
        }
        environment.retain(|(present, _)| present != name);
        environment.push((name.clone(), value.clone()));
    }
    Ok(environment)
}

fn check_namespace(path: &Path) -> Result<(), LaunchError> {
    match statfs(path) {
        Ok(found) if found.filesystem_type() == FsType(NSFS_MAGIC) => Ok(()),
        // A file that no namespace is mounted on was left by a crash.
        Ok(_) => Err(LaunchError::NoNamespace(path.to_owned())),
        Err(error) if is_absent(&error.into()) => Err(LaunchError::NoNamespace(path.to_owned())),
        Err(error) => Err(unreadable(path, &error.into())),
    }
}

fn refuse_nul(what: &'static str, text: &str) -> Result<(), LaunchError> {
    if !text.contains('\0') {
        return Ok(());
    }
    Err(LaunchError::Text {
        what,
        text: text.to_owned(),
        why: "it holds a NUL",
    })
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn unreadable(path: &Path, error: &io::Error) -> LaunchError {
    LaunchError::Unreadable {
        path: path.to_owned(),
        error: error.to_string(),
    }
}

#[cfg(test)]
mod tests;
