//! Writes the CRDs as YAML into the folder given as the only argument.

use std::{error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: crdgen FOLDER")?);
    for (file, crd) in compozy::api::crd::all()? {
        let yaml = serde_norway::to_string(&crd)?;
        fs::write(
            folder.join(file),
            format!("# Generated from src/api by `make crds`; do not edit.\n{yaml}"),
        )?;
    }
    Ok(())
}
