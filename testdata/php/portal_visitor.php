<?php
/**
 * Who is signed in, checked by the signature of the gate: nothing else on the network
 * can claim to be somebody, not even who reaches this server around the gate.
 *
 *     require 'portal_visitor.php';
 *     $who = portal_visitor('https://clients.example.com');
 *     if ($who === null) { http_response_code(403); exit('Please come through the front door.'); }
 *     echo 'Hello, ' . htmlspecialchars($who['name'] ?? $who['email']);
 *
 * $origin is the `url` of the Caddyfile. $keysUrl is where this server reaches the
 * gate's public keys, which are kept for five minutes in $cache. Needs PHP 7.4 or later
 * with openssl. Returns the claims, or null when there is no valid assertion.
 */
function portal_visitor(string $origin, ?string $keysUrl = null, ?string $cache = null): ?array
{
    $parts = explode('.', $_SERVER['HTTP_PORTAL_ASSERTION'] ?? '');
    if (count($parts) !== 3) {
        return null;
    }
    [$head, $claims] = [json_decode(portal_b64($parts[0]), true), json_decode(portal_b64($parts[1]), true)];
    $signature = portal_b64($parts[2]);
    if (!is_array($head) || !is_array($claims) || ($head['alg'] ?? '') !== 'ES256' || strlen($signature) !== 64) {
        return null; // the algorithm is ours to choose, never the sender's
    }
    $key = portal_key($head['kid'] ?? '', $keysUrl ?? "$origin/-/jwks.json", $cache ?? sys_get_temp_dir() . '/portal-keys-' . md5($origin) . '.json');
    if ($key === null || openssl_verify("$parts[0].$parts[1]", portal_der($signature), $key, OPENSSL_ALGO_SHA256) !== 1) {
        return null;
    }
    $now = time();
    $ours = ($claims['iss'] ?? '') === $origin && in_array($origin, (array) ($claims['aud'] ?? []), true);
    return $ours && $now < ($claims['exp'] ?? 0) && ($claims['iat'] ?? PHP_INT_MAX) <= $now + 30 ? $claims : null;
}

/** The public key with that id; a new id makes it ask the gate again, at most every ten seconds. */
function portal_key(string $kid, string $url, string $cache): ?string
{
    $age = is_file($cache) ? time() - filemtime($cache) : PHP_INT_MAX;
    $known = $age < PHP_INT_MAX ? json_decode((string) file_get_contents($cache), true) : null;
    $find = function ($set) use ($kid) {
        foreach ($set['keys'] ?? [] as $k) {
            if (($k['kid'] ?? null) === $kid && ($k['crv'] ?? '') === 'P-256') {
                return $k;
            }
        }
        return null;
    };
    $k = $find($known);
    if ($age > 300 || ($k === null && $age > 10)) {
        $fresh = @file_get_contents($url, false, stream_context_create(['http' => ['timeout' => 3]]));
        if ($fresh !== false && is_array(json_decode($fresh, true))) {
            file_put_contents($cache, $fresh, LOCK_EX);
            $k = $find(json_decode($fresh, true));
        }
    }
    if ($k === null) {
        return null;
    }
    // SubjectPublicKeyInfo of a P-256 key: a fixed head (RFC 5480), then the point.
    $der = hex2bin('3059301306072a8648ce3d020106082a8648ce3d030107034200') . "\x04" . portal_b64($k['x']) . portal_b64($k['y']);
    return "-----BEGIN PUBLIC KEY-----\n" . chunk_split(base64_encode($der), 64, "\n") . "-----END PUBLIC KEY-----\n";
}

/** A JWT's signature is r and s, 32 bytes each; openssl wants them as DER. */
function portal_der(string $signature): string
{
    $int = function (string $n): string {
        $n = ltrim($n, "\0");
        if ($n === '' || ord($n[0]) > 0x7f) {
            $n = "\0$n";
        }
        return "\x02" . chr(strlen($n)) . $n;
    };
    $both = $int(substr($signature, 0, 32)) . $int(substr($signature, 32));
    return "\x30" . chr(strlen($both)) . $both;
}

function portal_b64(string $s): string
{
    return (string) base64_decode(strtr($s, '-_', '+/'));
}
