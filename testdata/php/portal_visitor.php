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
 * with openssl. Returns the claims, or null when there is no valid assertion; why one isn't
 * valid, PHP's error log says.
 */
function portal_visitor(string $origin, ?string $keysUrl = null, ?string $cache = null): ?array
{
    $assertion = $_SERVER['HTTP_PORTAL_ASSERTION'] ?? '';
    if ($assertion === '') {
        return null; // nobody is signed in, or the request came around the gate
    }
    $parts = explode('.', $assertion);
    if (count($parts) !== 3) {
        return portal_refuse('it is no JWT');
    }
    [$head, $claims] = [json_decode(portal_b64($parts[0]), true), json_decode(portal_b64($parts[1]), true)];
    $signature = portal_b64($parts[2]);
    if (!is_array($head) || !is_array($claims) || ($head['alg'] ?? '') !== 'ES256' || strlen($signature) !== 64) {
        return portal_refuse('it is not signed with ES256'); // the algorithm is ours to choose, never the sender's
    }
    $key = portal_key($head['kid'] ?? '', $keysUrl ?? "$origin/-/jwks.json", $cache ?? sys_get_temp_dir() . '/portal-keys-' . md5($origin) . '.json');
    if ($key === null) {
        return null; // portal_key has said why
    }
    if (openssl_verify("$parts[0].$parts[1]", portal_der($signature), $key, OPENSSL_ALGO_SHA256) !== 1) {
        return portal_refuse('its signature is not the gate\'s');
    }
    if (($claims['iss'] ?? '') !== $origin || !in_array($origin, (array) ($claims['aud'] ?? []), true)) {
        return portal_refuse('it is for ' . json_encode($claims['aud'] ?? null) . ", and this portal is at $origin");
    }
    $now = time();
    if ($now >= ($claims['exp'] ?? 0) || ($claims['iat'] ?? PHP_INT_MAX) > $now + 30) {
        return portal_refuse("it is not valid at $now; is the clock of this machine right?");
    }
    return $claims;
}

/** Says in PHP's error log why an assertion isn't taken. */
function portal_refuse(string $why): ?array
{
    error_log("portal_visitor: the gate's assertion is refused: $why");
    return null;
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
        if ($fresh !== false && is_array(json_decode($fresh, true)['keys'] ?? null)) {
            if (@file_put_contents($cache, $fresh, LOCK_EX) === false) {
                error_log("portal_visitor: cannot write $cache, so the keys are fetched for each request; pass a file that PHP may write as \$cache");
            }
            $k = $find(json_decode($fresh, true));
        } else {
            $why = $fresh === false ? error_get_last()['message'] ?? 'no answer' : 'the answer is no set of keys';
            error_log("portal_visitor: cannot fetch the gate's keys from $url: $why; pass the address at which this machine reaches the gate as \$keysUrl");
        }
    }
    if ($k === null) {
        error_log("portal_visitor: the gate's assertion is refused: its key $kid is unknown");
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
