//! Schemas of what is embedded from Kubernetes or open by nature.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;

/// What holds of the names of workflows, tools and pools.
pub const NAME_RULE: &str = "size(self.metadata.name) <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')";
/// What is said of another name.
pub const NAME_MESSAGE: &str = "metadata.name must be a DNS label: at most 63 lower-case letters, digits and '-', no dots (it becomes part of NATS subjects)";

/// Any JSON value.
pub fn any_value(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"x-kubernetes-preserve-unknown-fields": true})
}

/// The items of a `forEach`: a list, or a string that is one whole expression. That it is one of the
/// two no structural schema can say, so what is neither is refused once the operator looks at it.
pub fn items(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-preserve-unknown-fields": true,
        "pattern": r"^\s*\$\{\{[\s\S]*\}\}\s*$",
        "maxLength": 8192,
        "maxItems": 100_000,
    })
}

/// Any JSON object.
pub fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// A Kubernetes type without its descriptions: with them the CRD would outgrow what
/// `kubectl apply` can keep in its annotation (256 KiB).
pub fn embedded<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = T::json_schema(generator);
    inline(&mut schema, generator);
    schema
}

/// A list of a Kubernetes type, as [`embedded`].
pub fn list_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let items = embedded::<T>(generator);
    json_schema!({"type": "array", "maxItems": 64, "items": items})
}

/// A container less what the operator sets itself.
pub fn container(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = embedded::<k8s_openapi::api::core::v1::Container>(generator);
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        for owned in [
            "name",
            "terminationMessagePath",
            "terminationMessagePolicy",
            "restartPolicy",
            "restartPolicyRules",
        ] {
            properties.remove(owned);
        }
        properties.insert(
            "image".to_owned(),
            serde_json::json!({"type": "string", "minLength": 1, "maxLength": 4096}),
        );
    }
    schema.insert("required".to_owned(), serde_json::json!(["image"]));
    schema
}

/// Replaces references by what they refer to and drops descriptions, all the way down.
fn inline(schema: &mut Schema, generator: &mut SchemaGenerator) {
    let mut value = std::mem::take(schema).to_value();
    inline_value(&mut value, generator);
    if let Value::Object(map) = value {
        *schema = Schema::from(map);
    }
}

fn inline_value(value: &mut Value, generator: &SchemaGenerator) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                let name = reference.rsplit('/').next().unwrap_or_default();
                if let Some(definition) = generator.definitions().get(name) {
                    *value = definition.clone();
                    return inline_value(value, generator);
                }
            }
            // A property may be called `description` too; then its value is a schema, not a text.
            if map.get("description").is_some_and(Value::is_string) {
                map.remove("description");
            }
            map.values_mut()
                .for_each(|child| inline_value(child, generator));
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|child| inline_value(child, generator)),
        _ => {}
    }
}
