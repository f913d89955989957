//! Writes what is generated from the types: the CRDs, the reference of the API and the schemas of the events, into
//! `crds/` and `docs/reference/` of the folder given as the only argument.

use std::{error::Error, fs, path::PathBuf};

mod reference;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: crdgen FOLDER")?);
    let (crds, docs) = (folder.join("crds"), folder.join("docs/reference"));
    let events = docs.join("events");
    fs::create_dir_all(&crds)?;
    fs::create_dir_all(&events)?;
    let mut kinds = Vec::new();
    for (file, crd) in compozy::api::crd::all()? {
        let yaml = serde_norway::to_string(&crd)?;
        fs::write(
            crds.join(file),
            format!("# Generated from src/api by `make crds`; do not edit.\n{yaml}"),
        )?;
        kinds.push(reference::kind(&crd));
    }
    fs::write(docs.join("api.md"), reference::document(&kinds))?;
    for (name, schema) in compozy::events::schemas() {
        let json = serde_json::to_string_pretty(&schema)?;
        fs::write(events.join(format!("{name}.json")), format!("{json}\n"))?;
    }
    Ok(())
}
