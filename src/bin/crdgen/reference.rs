//! The reference of the API: the schema of each kind as Markdown, a table for every object in it.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

const HEAD: &str = "# API reference

<!-- Generated from src/api by `make crds`; do not edit. -->

Every field of the custom resources. How they work together is in [workflows.md](../workflows.md). A duration is written as
`1h30m`, `90s` or `250ms`. *Kubernetes* stands for an object of Kubernetes' own API, which has its own reference.
";

/// The whole document.
pub fn document(kinds: &[String]) -> String {
    format!("{HEAD}{}", kinds.concat())
}

/// The part of one kind.
pub fn kind(crd: &CustomResourceDefinition) -> String {
    let mut text = String::new();
    for version in &crd.spec.versions {
        let schema = version.schema.as_ref();
        let Some(root) = schema.and_then(|schema| schema.open_api_v3_schema.as_ref()) else {
            continue;
        };
        let names = &crd.spec.names;
        text += &format!(
            "\n## {}\n\n`{}/{}`, short name `{}`. {}\n",
            names.kind,
            crd.spec.group,
            version.name,
            names
                .short_names
                .iter()
                .flatten()
                .cloned()
                .collect::<Vec<_>>()
                .join("`, `"),
            line(root),
        );
        let parts = root.properties.iter().flatten();
        for (name, part) in parts.filter(|(name, _)| ["spec", "status"].contains(&name.as_str())) {
            object(&mut text, &format!("{}.{name}", names.kind), part);
        }
    }
    text
}

/// The table of an object's fields, then those of the objects in it.
fn object(text: &mut String, path: &str, schema: &JSONSchemaProps) {
    *text += &format!(
        "\n### {path}\n\n{}\n\n| field | type | |\n|---|---|---|\n",
        line(schema)
    );
    let required: Vec<&String> = schema.required.iter().flatten().collect();
    let mut within = Vec::new();
    for (name, field) in schema.properties.iter().flatten() {
        let must = if required.contains(&name) {
            "**required** "
        } else {
            ""
        };
        *text += &format!(
            "| `{name}` | {} | {must}{} |\n",
            kind_of(field),
            line(field)
        );
        let (inner, suffix) = innermost(field);
        if is_ours(inner) {
            within.push((format!("{path}.{name}{suffix}"), inner));
        }
    }
    let rules = schema.x_kubernetes_validations.iter().flatten();
    for message in rules.filter_map(|rule| rule.message.as_ref()) {
        *text += &format!("\n- {message}");
    }
    if schema.x_kubernetes_validations.is_some() {
        *text += "\n";
    }
    for (path, inner) in within {
        object(text, &path, inner);
    }
}

/// What a list or a map holds in the end, and how that is written behind its name.
fn innermost(schema: &JSONSchemaProps) -> (&JSONSchemaProps, String) {
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        let (inner, suffix) = innermost(items);
        return (inner, format!("[]{suffix}"));
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &schema.additional_properties {
        let (inner, suffix) = innermost(values);
        return (inner, format!(".*{suffix}"));
    }
    (schema, String::new())
}

/// Objects of Kubernetes' own come without descriptions of their fields.
fn is_ours(schema: &JSONSchemaProps) -> bool {
    let mut fields = schema.properties.iter().flatten();
    fields.any(|(_, field)| field.description.is_some())
}

fn kind_of(schema: &JSONSchemaProps) -> String {
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        return format!("list of {}", kind_of(items));
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &schema.additional_properties {
        return format!("map of {}", kind_of(values));
    }
    if schema.x_kubernetes_int_or_string == Some(true) {
        return "integer or string".to_owned();
    }
    if let Some(values) = &schema.enum_ {
        let values = values.iter().filter_map(|value| value.0.as_str());
        return values
            .map(|value| format!("`{value}`"))
            .collect::<Vec<_>>()
            .join(", ");
    }
    let open = schema.x_kubernetes_preserve_unknown_fields == Some(true);
    match (schema.type_.as_deref(), schema.format.as_deref()) {
        (Some("string"), Some("date-time")) => "time".to_owned(),
        (Some("object"), _) if open => "JSON object".to_owned(),
        (Some("object"), _) if schema.properties.is_some() && !is_ours(schema) => {
            "*Kubernetes*".to_owned()
        }
        (Some(name), _) => name.to_owned(),
        (None, _) => "JSON".to_owned(),
    }
}

/// A description on one line of a table.
fn line(schema: &JSONSchemaProps) -> String {
    let text = schema.description.as_deref().unwrap_or_default();
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
}
