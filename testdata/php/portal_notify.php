<?php
// Calls Doorpost with a service token, without libraries. Returns what it answers, as an array, and throws a
// RuntimeException that says what is wrong and what to do.
//
// With a key, the call may be made again after an error: the same key, path and body are carried out once.
// It tries three times by itself, where the server or the way there fails.
function portal_api(string $portal, string $token, string $path, array $body, string $key = ''): array
{
    $header = "Content-Type: application/json\r\nAuthorization: Bearer $token\r\n";
    if ($key !== '') {
        $header .= "Idempotency-Key: $key\r\n";
    }
    $context = stream_context_create(['http' => [
        'method' => 'POST', 'header' => $header, 'content' => json_encode((object) $body, JSON_THROW_ON_ERROR),
        'ignore_errors' => true, 'timeout' => 15, 'follow_location' => 0,
    ]]);
    for ($try = 1; ; $try++) {
        $text = @file_get_contents(rtrim($portal, '/') . '/-/api/' . $path, false, $context);
        $status = isset($http_response_header[0]) ? (int) explode(' ', $http_response_header[0])[1] : 0;
        if ($text !== false && $status === 200) {
            return json_decode($text, true, 512, JSON_THROW_ON_ERROR);
        }
        $mayRepeat = $key !== '' && ($status === 0 || $status === 429 || $status >= 500);
        if (!$mayRepeat || $try === 3) {
            $problem = $text === false ? [] : (array) json_decode($text, true);
            throw new RuntimeException(trim("Doorpost answers $status: " . ($problem['detail'] ?? 'nothing') . '. ' . ($problem['remedy'] ?? '')));
        }
        sleep($try);
    }
}
