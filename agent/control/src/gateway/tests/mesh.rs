use super::*;

const WAYPOINT: &str = "{gatewayClassName: culvert-waypoint, listeners: [{name: mesh, port: 15008, \
                        protocol: HBONE}]}";

/// The namespace `shop` with a Service behind the waypoint `wp`, and one outside of the mesh.
fn shop(labels: &str, waypoint: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{{labels}}}}}\n\
         ---\napiVersion: v1\nkind: Service\nmetadata: {{name: cart, namespace: shop}}\nspec: \
         {{clusterIP: 10.0.1.1, ports: [{{name: http, port: 80}}, {{name: alt, port: 8080}}]}}\n\
         ---\napiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\nspec: \
         {{clusterIP: 10.0.1.2, ports: [{{port: 8080}}]}}\n{waypoint}"
    )
}

fn bound() -> String {
    let waypoint = object("Gateway", "shop", "wp", WAYPOINT);
    shop(
        "culvert.dev/mesh: enabled, culvert.dev/use-waypoint: wp",
        &waypoint,
    )
}

const CART: &str = "{group: '', kind: Service, name: cart}";

fn shown(manifest: &str, parents: &str) -> (Vec<String>, Vec<String>) {
    let world = World::of(&format!("{manifest}{}", route("shop", "r", parents, "")));
    (world.parents("HTTPRoute shop/r"), world.told("r"))
}

#[test]
fn mesh_http_route_simple_same_namespace() {
    let (parents, told) = shown(&bound(), CART);
    assert_eq!(parents, [ATTACHED]);
    assert_eq!(told, ["cart.shop.svc.cluster.local None None"]);
}

#[test]
fn mesh_ports() {
    let with = |more: &str| {
        shown(
            &bound(),
            &format!("{{group: '', kind: Service, name: cart{more}}}"),
        )
    };
    assert_eq!(
        with(", port: 80").1,
        ["cart.shop.svc.cluster.local Some(80) None"]
    );
    assert_eq!(
        with(", sectionName: alt").1,
        ["cart.shop.svc.cluster.local Some(8080) None"]
    );
    for missing in [
        ", port: 81",
        ", sectionName: nope",
        ", sectionName: alt, port: 80",
    ] {
        let (parents, told) = with(missing);
        assert!(
            parents[0].starts_with("Accepted=False/NoMatchingParent"),
            "{parents:?}"
        );
        assert!(told.is_empty());
    }
}

#[test]
fn mesh_consumer_route() {
    let parents = "{group: '', kind: Service, name: cart, namespace: shop}";
    let world = World::of(&format!("{}{}", bound(), route("apps", "r", parents, "")));
    assert_eq!(world.parents("HTTPRoute apps/r"), [ATTACHED]);
    assert_eq!(
        world.told("r"),
        ["cart.shop.svc.cluster.local None Some(\"apps\")"]
    );
}

#[test]
fn a_route_that_nobody_would_serve_is_refused() {
    let refused = "Accepted=False/NoMatchingParent ResolvedRefs=True/ResolvedRefs";
    // In the mesh, and no waypoint is named.
    let (parents, told) = shown(&shop("culvert.dev/mesh: enabled", ""), CART);
    assert_eq!((parents, told), (vec![refused.to_owned()], vec![]));
    // The waypoint is missing.
    let labels = "istio.io/use-waypoint: wp";
    let (parents, told) = shown(&shop(labels, ""), CART);
    assert_eq!((parents, told), (vec![refused.to_owned()], vec![]));
    // Not ours to say.
    let (parents, told) = shown(&shop("", ""), CART);
    assert!(parents.is_empty() && told.is_empty());
    // Of a Service that does not exist.
    let (parents, _) = shown(&bound(), "{group: '', kind: Service, name: nope}");
    assert!(parents.is_empty());
}

#[test]
fn routes_of_connections_have_no_service_for_a_parent() {
    let spec =
        format!("{{parentRefs: [{CART}], rules: [{{backendRefs: [{{name: web, port: 8080}}]}}]}}");
    let world = World::of(&format!(
        "{}{}",
        bound(),
        object("TCPRoute", "shop", "r", &spec)
    ));
    let shown = world.parents("TCPRoute shop/r").join(" ");
    assert!(
        shown.starts_with("Accepted=False/NotAllowedByListeners"),
        "{shown}"
    );
}
